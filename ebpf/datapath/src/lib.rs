//! The datapath from user space: build, load, pin, attach, typed maps, and the network devices they need.
//!
//! Mechanism only: `membership` decides who may join, and annotations, configuration files and Kubernetes are handled by
//! `membership`, `plugin` and `installer`.

pub mod arp;
mod attach;
pub mod bpf;
mod error;
mod events;
mod filter;
pub mod firewall;
mod former;
pub mod groups;
mod held;
pub mod lan_address;
pub mod link;
mod load;
mod maps;
pub mod member;
mod netlink;
mod nftables;
pub mod node_ports;
mod outlet;
mod pinned;
mod pod;
mod probe;
mod ring;
pub mod route;
mod state;
mod tap;
mod unload;

pub use attach::{Hook, Occupant, attach, detach, is_attached, is_filter, occupants};
pub use error::Error;
pub use events::{Events, events_lost, kernel_clock};
pub use former::{Former, Taken};
pub use held::{Held, Pins};
pub use load::{FAN_DEVICE, check_bpffs, check_kernel, ensure_fan, load};
pub use outlet::Outlet;
pub use pinned::{BPFFS, pin_directory};
pub use pod::{Netns, Pod};
pub use probe::{Arrival, Lookup};
pub use state::{Counter, External, Home, Latency, Lock, State};
pub use tap::{Frame, Tap, Whose};
pub use unload::unload;
pub use view::printable;

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;
