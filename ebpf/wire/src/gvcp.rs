//! GigE Vision control protocol (GVCP), UDP port 3956: an 8-byte header and a payload, all big endian.
//!
//! A command begins with `42`, flags u8, command u16, payload size u16, request id u16; an acknowledgement with status u16,
//! command u16, payload size u16, request id u16. Transport addresses are values of a camera's registers: where it streams
//! to, and where it sends messages. Source: "GigE Vision Specification" 2.0, aravis `src/arvgvcpprivate.h`, and
//! captures of aravis.
//!
//! | message | register | value |
//! |---|---|---|
//! | WRITEREG | @8 + 8n | @12 + 8n |
//! | READREG's acknowledgement | as asked | @8 + 4n |
//! | WRITEMEM, READMEM's acknowledgement | @8, counting up by 4 | @12 + 4n |
//! | discovery's acknowledgement | | the camera's own address @44 |

use crate::{Direction, Malformed};

/// Bytes in a message header.
pub const HEADER: u32 = 8;
/// The port that cameras listen on.
pub const PORT: u16 = 3956;
/// Offset of the camera's address in the acknowledgement of a discovery.
pub const CURRENT_ADDRESS: u32 = 44;
/// More registers than the longest message holds (GigE Vision: 536 bytes of payload).
pub const MAX_REGISTERS: u32 = 192;

const KEY: u8 = 0x42;

/// Commands. The number of an acknowledgement is one higher.
pub mod command {
    /// Find cameras. Broadcast.
    pub const DISCOVERY: u16 = 0x0002;
    /// Set a camera's address. Broadcast.
    pub const FORCE_IP: u16 = 0x0004;
    /// Resend lost packets of a stream; not acknowledged.
    pub const PACKET_RESEND: u16 = 0x0040;
    /// Read registers.
    pub const READ_REGISTERS: u16 = 0x0080;
    /// Write registers.
    pub const WRITE_REGISTERS: u16 = 0x0082;
    /// Read memory.
    pub const READ_MEMORY: u16 = 0x0084;
    /// Write memory.
    pub const WRITE_MEMORY: u16 = 0x0086;
    /// In place of an acknowledgement: wait.
    pub const PENDING_ACK: u16 = 0x0089;
    /// A camera reports an event.
    pub const EVENT: u16 = 0x00c0;
    /// A camera reports an event, with data.
    pub const EVENT_DATA: u16 = 0x00c2;
    /// Trigger cameras. Broadcast.
    pub const ACTION: u16 = 0x0100;
}

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The command; of an acknowledgement, the command that it acknowledges.
    pub command: u16,
    /// Bytes of payload.
    pub size: u32,
    /// The request id, which its acknowledgement repeats.
    pub id: u16,
}

/// What a camera's register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// No transport address.
    Other,
    /// A UDP port, in the lower half.
    Port,
    /// An IPv4 address.
    Address,
}

/// The message in a UDP payload of `length` bytes: a command (`Announce`) or an acknowledgement (`Answer`).
#[inline(always)]
pub fn message(
    header: &[u8; HEADER as usize],
    length: u32,
    direction: Direction,
) -> Result<Message, Malformed> {
    let [key, flags, c0, c1, s0, s1, i0, i1] = *header;
    let command = u16::from_be_bytes([c0, c1]);
    let size = u32::from(u16::from_be_bytes([s0, s1]));
    let id = u16::from_be_bytes([i0, i1]);
    let (command, sound) = match direction {
        Direction::Announce => (command, key == KEY && is_command(command, size)),
        // A status is 0, or 8xxx for an error.
        Direction::Answer => {
            let status = (key & 0x7f) | (flags & if key == 0 { 0xff } else { 0 });
            (command.wrapping_sub(1), status == 0 && is_acknowledgement(command, size))
        }
    };
    if !sound {
        return Err(Malformed::Header);
    }
    if length < HEADER || size != length - HEADER {
        return Err(Malformed::Truncated);
    }
    Ok(Message { command, size, id })
}

/// Whether the command exists and may have a payload of `size` bytes.
#[inline(always)]
const fn is_command(command: u16, size: u32) -> bool {
    match command {
        command::DISCOVERY => size == 0,
        command::READ_REGISTERS => size > 0 && size & 3 == 0,
        command::WRITE_REGISTERS => size > 0 && size & 7 == 0,
        command::READ_MEMORY => size == 8,
        command::WRITE_MEMORY => size > 4 && size & 3 == 0,
        command::FORCE_IP | command::PACKET_RESEND | command::ACTION => size > 0,
        command::EVENT | command::EVENT_DATA => size > 0,
        _ => false,
    }
}

/// Whether the acknowledgement exists and may have a payload of `size` bytes. One that reports an error has none.
#[inline(always)]
const fn is_acknowledgement(command: u16, size: u32) -> bool {
    if command == command::PENDING_ACK {
        return size == 4;
    }
    match command.wrapping_sub(1) {
        command::DISCOVERY => size == 0 || size >= CURRENT_ADDRESS - HEADER + 4,
        command::READ_REGISTERS | command::READ_MEMORY => size & 3 == 0,
        command::FORCE_IP | command::WRITE_REGISTERS | command::WRITE_MEMORY => true,
        command::EVENT | command::EVENT_DATA | command::ACTION => true,
        _ => false,
    }
}

/// What the register at `address` holds: ports and addresses of 512 stream channels, and of the message channel.
#[inline(always)]
pub const fn register(address: u32) -> Register {
    const STREAM_CHANNELS: u32 = 0x0d00;
    let in_channels = address.wrapping_sub(STREAM_CHANNELS);
    match (address, in_channels % 0x40, in_channels < 512 * 0x40) {
        (0x0b00, ..) | (_, 0x00, true) => Register::Port,
        (0x0b10, ..) | (_, 0x18, true) => Register::Address,
        _ => Register::Other,
    }
}

/// Where a message has its registers and their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many there are.
    pub count: u32,
    /// Distance between two values, bytes.
    pub stride: u32,
    /// Offset of the first register's address.
    pub address_at: u32,
    /// Whether each value has its address before it; otherwise addresses count up from the first.
    pub addressed: bool,
}

impl Layout {
    /// The layout of a message that writes registers, or reports values with their addresses; no registers for any other.
    #[inline(always)]
    pub const fn of(message: &Message, direction: Direction) -> Self {
        let announce = matches!(direction, Direction::Announce);
        match message.command {
            command::WRITE_REGISTERS if announce => {
                Self { count: message.size / 8, stride: 8, address_at: HEADER, addressed: true }
            }
            command::WRITE_MEMORY if announce => Self::memory(message.size),
            command::READ_MEMORY if !announce => Self::memory(message.size),
            _ => Self { count: 0, stride: 4, address_at: HEADER, addressed: false },
        }
    }

    #[inline(always)]
    const fn memory(size: u32) -> Self {
        let count = if size < 4 { 0 } else { (size - 4) / 4 };
        Self { count, stride: 4, address_at: HEADER, addressed: false }
    }

    /// Offset of the address of register `index`, and what to add to the address.
    #[inline(always)]
    pub const fn address(&self, index: u32) -> (u32, u32) {
        if self.addressed { (self.address_at + 8 * index, 0) } else { (self.address_at, 4 * index) }
    }

    /// Offset of the value of register `index`.
    #[inline(always)]
    pub const fn value(&self, index: u32) -> u32 {
        self.address_at + 4 + self.stride * index
    }
}

/// A register's value in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// What it is.
    pub register: Register,
    /// Its offset; a port is in the last two of its four bytes.
    pub at: u32,
}

/// The transport addresses in a whole datagram's registers.
pub fn values(datagram: &[u8], direction: Direction, mut visit: impl FnMut(Value)) -> Result<(), Malformed> {
    let header = datagram.first_chunk().ok_or(Malformed::Truncated)?;
    let length = u32::try_from(datagram.len()).map_err(|_| Malformed::TooLong)?;
    let layout = Layout::of(&message(header, length, direction)?, direction);
    if layout.count > MAX_REGISTERS {
        return Err(Malformed::TooLong);
    }
    for index in 0..layout.count {
        let (at, offset) = layout.address(index);
        let rest = datagram.get(at as usize..).and_then(<[u8]>::first_chunk).ok_or(Malformed::Truncated)?;
        let found = register(u32::from_be_bytes(*rest).wrapping_add(offset));
        if found != Register::Other {
            visit(Value { register: found, at: layout.value(index) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command(command: u16, payload: &[u8]) -> Vec<u8> {
        let size = (payload.len() as u16).to_be_bytes();
        [&[KEY, 1][..], &command.to_be_bytes(), &size, &[0xff, 0x36], payload].concat()
    }

    fn acknowledgement(command: u16, payload: &[u8]) -> Vec<u8> {
        let size = (payload.len() as u16).to_be_bytes();
        [&[0, 0][..], &(command + 1).to_be_bytes(), &size, &[0xff, 0x36], payload].concat()
    }

    fn found(datagram: &[u8], direction: Direction) -> Result<Vec<Value>, Malformed> {
        let mut found = vec![];
        values(datagram, direction, |value| found.push(value)).map(|()| found)
    }

    #[test]
    fn captured_writes_name_the_stream_channels_address_and_port() {
        let value = |register, at| Ok(vec![Value { register, at }]);
        let address = [0x42, 1, 0, 0x82, 0, 8, 0xff, 0x36, 0, 0, 0x0d, 0x18, 0x0a, 0x4d, 0, 3];
        assert_eq!(found(&address, Direction::Announce), value(Register::Address, 12));
        let port = [0x42, 1, 0, 0x82, 0, 8, 0xff, 0x36, 0, 0, 0x0d, 0, 0, 0, 0xc1, 0x54];
        assert_eq!(found(&port, Direction::Announce), value(Register::Port, 12));
        let control = [0x42, 1, 0, 0x82, 0, 8, 0xff, 0x36, 0, 0, 0x0a, 0, 0, 0, 0, 2];
        assert_eq!(found(&control, Direction::Announce), Ok(vec![]));
    }

    #[test]
    fn several_registers_are_found_in_one_write() {
        let pairs = [0x0d40u32, 5000, 0x0a00, 2, 0x0d58, 0x0a00_0001, 0x0b00, 6000, 0x0b10, 1];
        let payload: Vec<u8> = pairs.iter().flat_map(|word| word.to_be_bytes()).collect();
        let expected =
            [(Register::Port, 12), (Register::Address, 28), (Register::Port, 36), (Register::Address, 44)];
        let expected = expected.map(|(register, at)| Value { register, at });
        let datagram = command(command::WRITE_REGISTERS, &payload);
        assert_eq!(found(&datagram, Direction::Announce).unwrap(), expected);
    }

    #[test]
    fn registers_are_found_in_memory_that_covers_them() {
        let words = [0x0cfcu32, 0, 5000, 0, 0, 0, 0, 0, 0x0a00_0001];
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        let expected = [(Register::Port, 16), (Register::Address, 40)];
        let expected = expected.map(|(register, at)| Value { register, at });
        let (write, read) =
            (command(command::WRITE_MEMORY, &payload), acknowledgement(command::READ_MEMORY, &payload));
        assert_eq!(found(&write, Direction::Announce).unwrap(), expected);
        assert_eq!(found(&read, Direction::Answer).unwrap(), expected);
    }

    #[test]
    fn only_channels_have_transport_addresses() {
        assert_eq!(register(0x0d00 + 0x40 * 511), Register::Port);
        assert_eq!(register(0x0d00 + 0x40 * 512), Register::Other);
        assert_eq!([0x0d04, 0x0a00, 0x0d1c, 0xd01, 0].map(register), [Register::Other; 5]);
    }

    #[test]
    fn acknowledgements_may_tell_of_errors() {
        for (status, sound) in [([0, 0], true), ([0x80, 0x06], true), ([0x42, 1], false), ([0, 1], false)] {
            let mut datagram = acknowledgement(command::WRITE_REGISTERS, &[0, 0, 0, 1]);
            datagram[..2].copy_from_slice(&status);
            assert_eq!(found(&datagram, Direction::Answer).is_ok(), sound, "{status:?}");
        }
    }

    #[test]
    fn what_no_peer_sends_is_refused() {
        let write = |size: usize| command(command::WRITE_REGISTERS, &vec![0; size]);
        for size in [0, 1, 4, 7, 12] {
            assert_eq!(found(&write(size), Direction::Announce), Err(Malformed::Header), "{size}");
        }
        let good = write(8);
        for length in 0..good.len() {
            assert_eq!(found(&good[..length], Direction::Announce), Err(Malformed::Truncated), "{length}");
        }
        assert_eq!(found(&command(0x55, &[0; 8]), Direction::Announce), Err(Malformed::Header));
        assert_eq!(found(&good, Direction::Answer), Err(Malformed::Header));
        let mut magic = good.clone();
        magic[0] = 0x43;
        assert_eq!(found(&magic, Direction::Announce), Err(Malformed::Header));
        assert_eq!(found(&write(2000), Direction::Announce), Err(Malformed::TooLong));
    }

    proptest! {
        #[test]
        fn whatever_arrives_what_is_found_lies_inside(
            mut datagram in prop::collection::vec(any::<u8>(), 8..300),
            code in prop::sample::select(vec![0x80u16, 0x82, 0x84, 0x86, 2]),
            answer in any::<bool>(),
        ) {
            let size = (datagram.len() as u16 - 8).to_be_bytes();
            let code = (code + u16::from(answer)).to_be_bytes();
            let start = if answer { [0, 0] } else { [KEY, 1] };
            datagram[..6].copy_from_slice(&[start[0], start[1], code[0], code[1], size[0], size[1]]);
            let direction = if answer { Direction::Answer } else { Direction::Announce };
            if let Ok(found) = found(&datagram, direction) {
                prop_assert!(found.iter().all(|value| value.at as usize + 4 <= datagram.len()));
            }
        }
    }
}
