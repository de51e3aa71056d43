//! The core as a whole, driven without sockets, clocks or descriptors.
//!
//! `harness` is the shell's stand-in: it keeps a ledger of descriptors, carries actions out, and moves
//! bytes. `conversation` holds exchanges to the byte; `refusals` reaches every limit and breaks every rule; `slow` is
//! about subscribers that do not keep up; `rings` about streams; `stretch` holds the quick way of small messages to the general one; `world` lets a seeded mix of clients loose under
//! virtual time, `queues_world` does the same with queues, which `queues` looks at case by case (as `services` does with services, and `routes`, `routes_reply` and `routes_world` with routes), and `books` knows what each of them must have been told.
//! `wholes` is about large messages of rings that queues and routes take. `answers` is about requests that are given up.

mod bulk;
mod harness;

mod conversation;

mod refusals;

mod slow;

mod gates;

mod stretch;

mod retained;

mod rings;

mod growth;

mod proxies;

mod wholes;

mod world;

mod queues;

mod model_store;
mod queues_durable;
mod queues_durable_world;
mod queues_world;

mod queues_stretch;

mod queues_reload;

mod services;

mod services_world;

mod routes;
mod routes_deliver;

mod routes_reply;

mod routes_tap;

mod routes_world;

mod adoption;

mod books;

mod answers;
