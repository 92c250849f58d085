//! What is seen of searches, answers and connections on this node, while somebody looks: `iocast-node top` and `map`.
//!
//! For whoever else wants to look, such as a server with several viewers:
//!
//! ```text
//! let mut watch = Watch::start(bpffs)?;    // from now on the programs emit events
//! watch.turn(Duration::from_secs(1))?;     // reads them for so long, in the calling thread; call it again and again
//! let seen: view::Seen = watch.seen();     // what was seen since the start; rates are over the last 5 s
//! drop(watch);                             // no events any more, unless others look
//! ```
//!
//! Between two turns nothing is read, and what the ring cannot hold is lost, so turns should follow one another. A `Watch` can be
//! given to another thread. Its memory is bounded (the constants in `tallies`), and so is its processor time, by a budget of names
//! a second (`watch`); what it skips it counts in `lost`. `seen` takes milliseconds: share its result among viewers. An error
//! of `turn` means that the datapath is gone, or another one: start anew.

mod command;
mod rate;
mod report;
mod scene;
mod tallies;
mod watch;

pub(crate) use command::{MapOptions, TopOptions, map, top};
pub(crate) use watch::Watch;
