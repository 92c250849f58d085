//! The annotations with which a pod makes its requests, and how they reach the plugin.

/// The annotation with which a pod asks to join a domain.
pub const DOMAIN: &str = "iocast.io/domain";
/// The annotation with which a pod pins external ports.
pub const PORTS: &str = "iocast.io/ports";
/// The annotation with which a pod asks for an address of its own on the LAN.
pub const ADDRESS: &str = "iocast.io/address";
/// The annotation with which a pod says how the names of its PVs begin, so that it gets no searches for others.
pub const PVS: &str = "iocast.io/pvs";
/// The CRI capability with which a runtime passes a pod's annotations to a CNI plugin.
pub const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";
