//! How a pod asks, and how its asking reaches us.

/// The annotation by which a pod asks to join a domain.
pub const DOMAIN: &str = "iocast.io/domain";
/// The annotation by which a pod asks for external ports.
pub const PORTS: &str = "iocast.io/ports";
/// The CRI capability by which a runtime passes a pod's annotations to a CNI plugin.
pub const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";
