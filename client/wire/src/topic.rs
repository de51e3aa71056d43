//! Names of what is published, and filters that select them.
//!
//! A [`Topic`] is tokens of `[A-Za-z0-9_-]` joined by dots. A [`Filter`] may also use `*` for exactly one
//! token and, as its last token, `>` for one or more. A first token that starts with `$` is the
//! broker's own (`$tramline.…`): only the broker publishes there, and a filter sees it only when it
//! names that token, so `>` stays quiet about the broker's affairs.

use crate::limits::{TOPIC_BYTES_MAX, TOPIC_TOKENS_MAX};
use std::fmt;

/// Why a topic or filter was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Nothing was given.
    #[error("a topic must not be empty")]
    Empty,
    /// Longer than [`TOPIC_BYTES_MAX`].
    #[error("the topic has {0} bytes; at most {TOPIC_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// More than [`TOPIC_TOKENS_MAX`] tokens.
    #[error("the topic has more than {TOPIC_TOKENS_MAX} tokens")]
    TooManyTokens,
    /// Two dots in a row, or one at either end.
    #[error("the topic has an empty token at byte {0}: no dot may stand first, last or beside another")]
    EmptyToken(usize),
    /// A character outside the alphabet.
    #[error("the topic has an illegal character at byte {0}: tokens consist of A-Z a-z 0-9 _ -")]
    Character(usize),
    /// `$` somewhere other than at the start of the first token.
    #[error("'$' at byte {0}: it may stand only at the start of a topic, and belongs to the broker there")]
    Reserved(usize),
    /// `*` or `>` in a topic, beside other characters, or `>` before the end.
    #[error(
        "a wildcard at byte {0} out of place: '*' is a whole token, '>' a whole last token, in filters only"
    )]
    Wildcard(usize),
}

/// A checked topic name: one or more tokens without wildcards.
///
/// ```
/// use tramline_wire::Topic;
/// assert_eq!(Topic::parse("sensors.gps.fix").unwrap().as_str(), "sensors.gps.fix");
/// assert!(Topic::parse("sensors..fix").is_err());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic<'a>(&'a str);

/// A checked filter: a topic that may hold wildcards.
///
/// ```
/// use tramline_wire::{Filter, Topic};
/// let filter = Filter::parse("sensors.*.fix").unwrap();
/// assert!(filter.matches(Topic::parse("sensors.gps.fix").unwrap()));
/// assert!(!filter.matches(Topic::parse("sensors.gps.raw").unwrap()));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter<'a>(&'a str);

fn check(text: &str, wildcards: bool) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong(text.len()));
    }
    let mut start = 0;
    for (index, token) in text.split('.').enumerate() {
        if index >= TOPIC_TOKENS_MAX {
            return Err(TopicError::TooManyTokens);
        }
        let last = start + token.len() == text.len();
        check_token(token, start, index == 0, last, wildcards)?;
        start += token.len() + 1;
    }
    Ok(())
}

fn check_token(
    token: &str,
    start: usize,
    first: bool,
    last: bool,
    wildcards: bool,
) -> Result<(), TopicError> {
    if token == "*" || token == ">" {
        let in_place = wildcards && (token == "*" || last);
        return if in_place { Ok(()) } else { Err(TopicError::Wildcard(start)) };
    }
    let body = token.strip_prefix('$').unwrap_or(token);
    if body.len() != token.len() && !first {
        return Err(TopicError::Reserved(start));
    }
    if body.is_empty() {
        return Err(TopicError::EmptyToken(start));
    }
    let skipped = token.len() - body.len();
    for (offset, byte) in body.bytes().enumerate() {
        let at = start + skipped + offset;
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => {}
            b'*' | b'>' => return Err(TopicError::Wildcard(at)),
            b'$' => return Err(TopicError::Reserved(at)),
            _ => return Err(TopicError::Character(at)),
        }
    }
    Ok(())
}

impl<'a> Topic<'a> {
    /// Checks `text`.
    ///
    /// # Errors
    /// Says what is wrong with it, and at which byte.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        check(text, false).map(|()| Self(text))
    }

    /// The name as text.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Whether the name belongs to the broker (`$…`): nobody else may publish to it.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        self.0.starts_with('$')
    }

    /// The tokens, first to last.
    pub fn tokens(self) -> impl Iterator<Item = &'a str> {
        self.0.split('.')
    }
}

impl<'a> Filter<'a> {
    /// Checks `text`.
    ///
    /// # Errors
    /// Says what is wrong with it, and at which byte.
    pub fn parse(text: &'a str) -> Result<Self, TopicError> {
        check(text, true).map(|()| Self(text))
    }

    /// The filter as text.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The tokens, first to last; `*` and `>` are tokens of their own.
    pub fn tokens(self) -> impl Iterator<Item = &'a str> {
        self.0.split('.')
    }

    /// Whether the filter selects exactly one topic.
    #[must_use]
    pub fn is_literal(self) -> bool {
        !self.0.contains(['*', '>'])
    }

    /// Whether the filter selects `topic`.
    #[must_use]
    pub fn matches(self, topic: Topic<'_>) -> bool {
        // A wildcard in the first place does not see what the broker says about itself.
        if topic.is_reserved() && !self.0.starts_with('$') {
            return false;
        }
        let mut names = topic.tokens();
        for want in self.tokens() {
            match (want, names.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (want, Some(name)) if want == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

impl fmt::Debug for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for Topic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Filter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for Filter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(filter: &str, topic: &str) -> bool {
        Filter::parse(filter).unwrap().matches(Topic::parse(topic).unwrap())
    }

    #[test]
    fn wildcards_match_whole_tokens() {
        assert!(matches("a.b", "a.b"));
        assert!(matches("a.*", "a.b"));
        assert!(matches(">", "a.b.c"));
        assert!(matches("a.>", "a.b.c"));
        assert!(matches("*.b.*", "a.b.c"));
        assert!(!matches("a.>", "a"));
        assert!(!matches("a.*", "a.b.c"));
        assert!(!matches("a.b.c", "a.b"));
    }

    #[test]
    fn the_brokers_own_topics_are_seen_only_by_name() {
        assert!(matches("$tramline.>", "$tramline.connect"));
        assert!(!matches(">", "$tramline.connect"));
        assert!(!matches("*.connect", "$tramline.connect"));
    }

    #[test]
    fn faults_are_named_with_their_place() {
        assert_eq!(Topic::parse(""), Err(TopicError::Empty));
        assert_eq!(Topic::parse("a..b"), Err(TopicError::EmptyToken(2)));
        assert_eq!(Topic::parse("a."), Err(TopicError::EmptyToken(2)));
        assert_eq!(Topic::parse("a b"), Err(TopicError::Character(1)));
        assert_eq!(Topic::parse("a.$b"), Err(TopicError::Reserved(2)));
        assert_eq!(Topic::parse("a.*"), Err(TopicError::Wildcard(2)));
        assert_eq!(Filter::parse("a.>.b"), Err(TopicError::Wildcard(2)));
        assert_eq!(Filter::parse("a.b*"), Err(TopicError::Wildcard(3)));
        assert_eq!(Topic::parse("$"), Err(TopicError::EmptyToken(0)));
        assert_eq!(Topic::parse(&"a".repeat(256)), Err(TopicError::TooLong(256)));
        assert!(Topic::parse(&"a".repeat(255)).is_ok());
        assert_eq!(Topic::parse("ä"), Err(TopicError::Character(0)));
    }

    proptest! {
        #[test]
        fn any_text_is_either_refused_or_matches_itself(text in "[a-c$*>. ]{0,12}") {
            if let Ok(topic) = Topic::parse(&text) {
                prop_assert!(Filter::parse(&text).unwrap().matches(topic));
            }
        }
    }
}
