//! A table of values under keys that are never mistaken for those of earlier values.
//!
//! A key is a place and the number of times the place was given out, so a key that outlived its value
//! finds nothing. Finding costs one bounds check and one comparison, no hashing: the way of a
//! message goes through three such tables.

/// Where a value is. Keys of removed values find nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    place: u32,
    turn: u32,
}

impl Key {
    /// The key of no value.
    pub(super) const NOBODY: Self = Self { place: u32::MAX, turn: u32::MAX };
}

#[derive(Debug)]
struct Place<T> {
    turn: u32,
    value: Option<T>,
}

/// Values by key.
#[derive(Debug)]
pub(super) struct Table<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }
}

impl<T> Table<T> {
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        if let Some(place) = self.free.pop() {
            let slot = &mut self.places[place as usize];
            slot.turn = slot.turn.wrapping_add(1);
            slot.value = Some(value);
            return Key { place, turn: slot.turn };
        }
        let place = u32::try_from(self.places.len()).expect("every table is limited far below 2^32");
        self.places.push(Place { turn: 0, value: Some(value) });
        Key { place, turn: 0 }
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.places.get(key.place as usize).filter(|place| place.turn == key.turn)?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.places.get_mut(key.place as usize).filter(|place| place.turn == key.turn)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.place as usize).filter(|place| place.turn == key.turn)?;
        let value = place.value.take()?;
        self.free.push(key.place);
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places.iter().enumerate().filter_map(|(place, slot)| {
            let place = u32::try_from(place).ok()?;
            Some((Key { place, turn: slot.turn }, slot.value.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_outlived_its_value_finds_nothing() {
        let mut table = Table::default();
        let first = table.insert("a");
        assert_eq!(table.remove(first), Some("a"));
        let second = table.insert("b");
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"b"));
        assert_eq!(table.len(), 1);
        assert_eq!(table.iter().collect::<Vec<_>>(), [(second, &"b")]);
    }
}
