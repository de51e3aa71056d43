//! Which subscriptions a topic reaches: a tree of the tokens of all filters.
//!
//! Each level holds literal tokens, `*`, and the subscriptions that end here or with `>`. Matching walks the
//! branches that fit and appends what it finds, so its cost is that of the fitting filters, not of all.
//! The tree knows no limits; the number of subscriptions is limited before they come here.

use super::table::Key;
use std::collections::HashMap;
use tramline_wire::{Filter, Topic};

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    /// Filters that end here.
    here: Vec<Key>,
    /// Filters that go on with `>`.
    rest: Vec<Key>,
}

/// All filters of all subscriptions.
#[derive(Debug, Default)]
pub(super) struct Filters {
    root: Node,
}

impl Filters {
    pub(super) fn insert(&mut self, filter: Filter<'_>, subscription: Key) {
        let mut node = &mut self.root;
        for token in filter.tokens() {
            node = match token {
                ">" => return node.rest.push(subscription),
                "*" => node.any.get_or_insert_default(),
                token => node.literal.entry(token.into()).or_default(),
            };
        }
        node.here.push(subscription);
    }

    pub(super) fn remove(&mut self, filter: Filter<'_>, subscription: Key) {
        let tokens: Vec<&str> = filter.tokens().collect();
        self.root.remove(&tokens, subscription);
    }

    /// Appends every subscription whose filter selects `topic`, each once.
    pub(super) fn matching(&self, topic: Topic<'_>, found: &mut Vec<Key>) {
        let tokens: Vec<&str> = topic.tokens().collect();
        if topic.is_reserved() {
            // A wildcard in the first place does not see what the broker says about itself.
            if let Some(node) = self.root.literal.get(tokens[0]) {
                node.matching(&tokens[1..], found);
            }
            return;
        }
        self.root.matching(&tokens, found);
    }
}

impl Node {
    fn matching(&self, tokens: &[&str], found: &mut Vec<Key>) {
        let Some((token, tokens)) = tokens.split_first() else {
            return found.extend_from_slice(&self.here);
        };
        found.extend_from_slice(&self.rest);
        if let Some(node) = self.literal.get(*token) {
            node.matching(tokens, found);
        }
        if let Some(node) = &self.any {
            node.matching(tokens, found);
        }
    }

    fn remove(&mut self, tokens: &[&str], subscription: Key) {
        let forget = |list: &mut Vec<Key>| {
            if let Some(place) = list.iter().position(|key| *key == subscription) {
                list.swap_remove(place);
            }
        };
        match tokens.split_first() {
            None => forget(&mut self.here),
            Some((&">", _)) => forget(&mut self.rest),
            Some((&"*", tokens)) => {
                if let Some(node) = &mut self.any {
                    node.remove(tokens, subscription);
                    if node.is_empty() {
                        self.any = None;
                    }
                }
            }
            Some((token, tokens)) => {
                if let Some(node) = self.literal.get_mut(*token) {
                    node.remove(tokens, subscription);
                    if node.is_empty() {
                        self.literal.remove(*token);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.literal.is_empty() && self.any.is_none() && self.here.is_empty() && self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::table::Table;
    use proptest::prelude::*;

    proptest! {
        /// The tree agrees with asking every filter, also after some were removed, and keeps no dead branch.
        #[test]
        fn agrees_with_asking_every_filter(
            filters in proptest::collection::vec(("[$]?[ab*](\\.[ab*]){0,3}(\\.>)?|>", any::<bool>()), 0..24),
            topics in proptest::collection::vec("[$]?[ab](\\.[ab]){0,4}", 1..12),
        ) {
            let mut keys = Table::default();
            let mut tree = Filters::default();
            let mut kept = Vec::new();
            let checked = filters.iter().filter_map(|(text, keep)| Some((Filter::parse(text).ok()?, *keep)));
            let all: Vec<(Filter<'_>, bool, Key)> =
                checked.map(|(filter, keep)| (filter, keep, keys.insert(()))).collect();
            for (filter, _, key) in &all {
                tree.insert(*filter, *key);
            }
            for (filter, keep, key) in &all {
                if *keep { kept.push((*filter, *key)) } else { tree.remove(*filter, *key) }
            }
            for text in &topics {
                let topic = Topic::parse(text).unwrap();
                let mut found = Vec::new();
                tree.matching(topic, &mut found);
                found.sort();
                let mut expected: Vec<Key> =
                    kept.iter().filter(|(filter, _)| filter.matches(topic)).map(|(_, key)| *key).collect();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
            for (filter, key) in kept {
                tree.remove(filter, key);
            }
            prop_assert!(tree.root.is_empty());
        }
    }
}
