//! The plugin on the node: its binary, and its place in the primary CNI's chain.

#[cfg_attr(not(test), expect(dead_code, reason = "the installer that uses it comes next"))]
mod conflist;
