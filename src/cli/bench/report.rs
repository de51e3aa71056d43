//! What a benchmark prints: tables for people, or one JSON object.
