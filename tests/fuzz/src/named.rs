//! What must hold of everything that a datagram names, and of the PV names in it.

use wire::Named;

/// Renaming changes the bytes of the port and the address alone, keeps the length, and is undone by its inverse.
pub fn check(named: &Named, datagram: &[u8]) {
    let (port, address) = (named.port_at as usize, named.address_at as usize);
    assert_eq!(named.order.port([datagram[port], datagram[port + 1]]), named.port);
    let mut renamed = datagram.to_vec();
    renamed[port..port + 2].copy_from_slice(&named.order.bytes(!named.port));
    renamed[address..address + 4].copy_from_slice(&[192, 0, 2, 1]);
    let differs = |at: &usize| renamed[*at] != datagram[*at];
    let named_bytes = |at: &usize| (port..port + 2).contains(at) || (address..address + 4).contains(at);
    assert!((0..datagram.len()).filter(differs).all(|at| named_bytes(&at)));
    renamed[port..port + 2].copy_from_slice(&named.order.bytes(named.port));
    renamed[address..address + 4].copy_from_slice(&datagram[address..address + 4]);
    assert_eq!(renamed, datagram);
}

/// A name lies inside the datagram.
pub fn check_name(name: &[u8], datagram: &[u8]) {
    let (name, datagram) = (name.as_ptr_range(), datagram.as_ptr_range());
    assert!(datagram.start <= name.start && name.end <= datagram.end);
}
