//! Routes that would feed each other: found at load, by where they send and what they take.
//!
//! A route leads to another if it may send to a topic or queue that the other takes from, or to a topic to which such a
//! queue is bound, and there is a type that both take: a message keeps its type on its way. What `when` says is not known at
//! load, so a circle that only `when` breaks is refused as well. Queues that clients declare are not known either; what goes
//! round through them is stopped after `hops_max` routes.

use super::route::{Origin, matches, meets};
use super::settings::{Destination, Intake, RouteSettings};
use std::collections::BTreeMap;

/// Queues that are bound to topics, with their filters.
type Bound = BTreeMap<String, Vec<String>>;

/// A circle among the routes: the first route in it, and a sentence that names all.
pub(super) fn find(routes: &[RouteSettings], bound: &Bound) -> Option<(usize, String)> {
    let leads: Vec<Vec<usize>> = routes
        .iter()
        .map(|route| {
            (0..routes.len()).filter(|other| feeds(route, &routes[*other], bound).is_some()).collect()
        })
        .collect();
    // Without recursion: there may be ten thousand routes in a row.
    let mut state = vec![State::New; routes.len()];
    for start in 0..routes.len() {
        let mut way = vec![(start, 0)];
        while let Some((at, next)) = way.last_mut() {
            let at = *at;
            state[at] = if state[at] == State::Done { State::Done } else { State::OnTheWay };
            let Some(&to) = leads[at].get(*next).filter(|_| state[at] != State::Done) else {
                state[at] = State::Done;
                way.pop();
                continue;
            };
            *next += 1;
            match state[to] {
                State::New => way.push((to, 0)),
                State::Done => {}
                State::OnTheWay => {
                    let from = way.iter().position(|(route, _)| *route == to).unwrap_or(0);
                    let circle: Vec<usize> = way[from..].iter().map(|(route, _)| *route).collect();
                    return Some((circle[0], sentence(routes, &circle, bound)));
                }
            }
        }
    }
    None
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    OnTheWay,
    Done,
}

fn sentence(routes: &[RouteSettings], circle: &[usize], bound: &Bound) -> String {
    let mut sentence = String::from("messages would go round:");
    for (index, &at) in circle.iter().enumerate() {
        let to = circle[(index + 1) % circle.len()];
        let Some((by, queue)) = feeds(&routes[at], &routes[to], bound) else { continue };
        let through =
            queue.map(|queue| format!(" and so to queue:{queue}, which is bound to it")).unwrap_or_default();
        sentence.push_str(&format!(
            " {} sends to {by}{through}, which {} takes;",
            routes[at].name, routes[to].name
        ));
    }
    sentence.pop();
    sentence
}

/// By which destination one route feeds another, and through which queue that is bound to it, if not directly.
fn feeds<'r>(
    route: &'r RouteSettings,
    other: &'r RouteSettings,
    bound: &Bound,
) -> Option<(&'r Destination, Option<&'r str>)> {
    let (ours, theirs) = (&route.message_types, &other.message_types);
    if !ours.is_empty() && !theirs.is_empty() && !ours.iter().any(|kind| theirs.contains(kind)) {
        return None;
    }
    let ends = [&route.tap, &route.invalid, &route.deliver.dead_letter].into_iter().flatten();
    route.deliver.to.iter().chain(ends).find_map(|destination| {
        let origin = match destination {
            Destination::Topic(topic) => Origin::Topic(topic),
            Destination::Queue(queue) => Origin::Queue(queue),
            Destination::Service(service) => Origin::Service(service),
        };
        other.from.iter().find_map(|intake| match (intake, destination) {
            _ if meets(intake, origin) => Some((destination, None)),
            (Intake::Queue(queue), Destination::Topic(topic)) => {
                let filters = bound.get(queue)?;
                filters.iter().any(|filter| matches(filter, topic)).then_some((destination, Some(&**queue)))
            }
            _ => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::settings::Intake;
    use super::*;

    fn route(name: &str, from: &str, to: &[&str]) -> RouteSettings {
        let mut route = RouteSettings { name: name.to_owned(), ..RouteSettings::default() };
        route.from = vec![Intake::parse(from).unwrap()];
        route.deliver.to = to.iter().map(|to| Destination::parse(to).unwrap()).collect();
        route
    }

    #[test]
    fn circles_are_found_and_named() {
        let said = |routes: &[RouteSettings]| find(routes, &Bound::new()).map(|(_, sentence)| sentence);
        assert_eq!(
            said(&[route("a", "x.*", &["topic:y"]), route("b", "y", &["queue:q", "service:x.z"])]),
            None
        );
        let own = said(&[route("a", "x.>", &["topic:x.y"])]).unwrap();
        assert_eq!(own, "messages would go round: a sends to topic:x.y, which a takes");
        let three = [
            route("a", "x", &["topic:y"]),
            route("b", "*", &["queue:q"]),
            route("c", "queue:q", &["service:s", "topic:x"]),
        ];
        let told = said(&three).unwrap();
        assert!(
            told.ends_with("c sends to topic:x, which a takes") && told.contains("a sends to topic:y"),
            "{told}"
        );
    }

    #[test]
    fn a_queue_that_is_bound_to_a_topic_is_a_way_too() {
        let bound = |filter: &str| Bound::from([("q".to_owned(), vec!["z".to_owned(), filter.to_owned()])]);
        let routes = [route("a", "queue:q", &["topic:x"]), route("b", "x", &["queue:r", "topic:y.1"])];
        let (first, told) = find(&routes, &bound("y.*")).unwrap();
        assert_eq!(first, 0);
        let back = "b sends to topic:y.1 and so to queue:q, which is bound to it, which a takes";
        assert!(told.contains("a sends to topic:x, which b takes") && told.ends_with(back), "{told}");
        assert_eq!(find(&routes, &bound("y.2")), None);
        assert_eq!(find(&routes, &Bound::from([("p".to_owned(), vec![">".to_owned()])])), None);
    }

    #[test]
    fn the_other_ways_out_are_ways_too() {
        let mut invalid = route("a", "x", &[]);
        invalid.invalid = Some(Destination::Topic("x".to_owned()));
        assert!(find(&[invalid], &Bound::new()).is_some());
        let mut dead = route("a", "queue:q", &[]);
        dead.deliver.dead_letter = Some(Destination::Queue("q".to_owned()));
        assert!(find(&[dead], &Bound::new()).is_some());
        let mut tapped = route("a", "x", &[]);
        tapped.tap = Some(Destination::Topic("x".to_owned()));
        assert!(find(&[tapped], &Bound::new()).is_some());
    }

    #[test]
    fn types_that_differ_break_a_circle() {
        let (mut there, mut back) = (route("a", "x", &["topic:y"]), route("b", "y", &["topic:x"]));
        there.message_types = vec!["A".to_owned()];
        back.message_types = vec!["B".to_owned()];
        assert_eq!(find(&[there.clone(), back.clone()], &Bound::new()), None);
        back.message_types.push("A".to_owned());
        assert!(find(&[there, back], &Bound::new()).is_some());
    }

    #[test]
    fn a_long_row_is_no_circle_and_its_end_may_make_it_one() {
        let mut row: Vec<RouteSettings> = (0..300)
            .map(|number| {
                route(&format!("r{number}"), &format!("t{number}"), &[&format!("topic:t{}", number + 1)])
            })
            .collect();
        assert_eq!(find(&row, &Bound::new()), None);
        row.push(route("end", "t300", &["topic:t0"]));
        assert!(find(&row, &Bound::new()).is_some());
    }
}
