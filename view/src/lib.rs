//! What is shown of nodes: the shapes of answers, how the answers of several nodes become one, and their text.
//!
//! Pure, but for what `terminal` asks an output: neither the datapath nor a cluster is known here. The agent makes a node's answer; the agent's page and the kubectl plugin
//! merge those of all nodes into one of the same shape, so that whoever reads an answer need not know how many made it.
#![forbid(unsafe_code)]

mod answer;
pub mod doctor;
mod duplicates;
mod members;
pub mod printable;
mod seen;
pub mod snoop;
pub mod survey;
mod table;
#[cfg(feature = "terminal")]
pub mod terminal;
pub mod why;

pub use answer::{Answer, Asked, VERSION};
pub use duplicates::Duplicates;
pub use members::{Address, Member, Members, Port};
pub use printable::printable;
pub use seen::{Answered, Domain, Duplicate, Pod, Prefix, Reader, Seen, Server, Talker, Unanswered};
pub use table::{Style, table, wrapped};
