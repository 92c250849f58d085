//! The end-to-end suites, one module each. `cargo test -p iocast-tests --test e2e edges` runs one of them; when a test
//! runs, and what beside it, is said in `lab::turn`.

mod absence;
mod adopt;
mod agent;
mod arguments;
mod chain;
mod channel_access;
mod churn;
mod circuits;
mod cluster;
mod cni;
mod containers;
mod differential;
mod doctor;
mod documents;
mod edges;
mod errors;
mod interface;
mod kept_lab;
mod manifests;
mod matrix;
mod neighbours;
mod nodes;
mod pins;
mod ports;
mod printing;
mod private;
mod probes;
mod programs;
mod protocols;
mod pv_access;
mod pva_edges;
mod recovery;
mod snoop;
mod structure;
mod timed;
