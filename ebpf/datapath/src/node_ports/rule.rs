//! What a rule of nf_tables does with a packet. Expressions that are not known here may match anything.

use super::{
    packet::{Byte, Packet},
    set::{Set, named, values},
    verdict::{Step, Verdict, conclude},
    xt,
};
use crate::{Result, nftables::Attributes};

/// Where sets are found by their names.
pub(super) trait Sets {
    fn set(&mut self, name: &str) -> Result<&Set>;
}

/// 16 registers of four bytes.
const REGISTERS: usize = 64;

/// A rule that is being evaluated.
struct Run<'a> {
    packet: Packet<'a>,
    registers: [Byte; REGISTERS],
    verdict: Verdict,
    step: Step<String>,
}

/// What `rule` does with a packet.
pub(super) fn evaluate(
    rule: Attributes<'_>,
    packet: Packet<'_>,
    sets: &mut impl Sets,
) -> Result<Step<String>> {
    let registers = [Byte::UNKNOWN; REGISTERS];
    let mut run = Run { packet, registers, verdict: Verdict::MATCHES, step: Step::Next };
    for (_, expression) in rule.get(4).into_iter().flatten() {
        // NFTA_RULE_EXPRESSIONS; NFTA_EXPR_NAME, NFTA_EXPR_DATA
        let data = expression.get(2).unwrap_or(Attributes(&[]));
        let verdict = run.express(expression.text(1).unwrap_or_default(), data, sets)?;
        run.verdict = run.verdict.and(verdict);
        if run.verdict.fails() {
            return Ok(Step::Next);
        }
    }
    Ok(conclude(run.verdict, run.step))
}

impl Run<'_> {
    fn express(&mut self, name: &str, data: Attributes<'_>, sets: &mut impl Sets) -> Result<Verdict> {
        Ok(match name {
            "lookup" => self.look_up(data, sets)?,
            "cmp" => self.compare(data),
            "range" => self.within(data),
            "match" => self.xt_match(data),
            _ => {
                self.act(name, data);
                Verdict::MATCHES
            }
        })
    }

    /// Expressions that are no conditions.
    fn act(&mut self, name: &str, data: Attributes<'_>) {
        match name {
            "payload" => self.load_payload(data),
            "meta" => self.load(data.number(1), &self.packet.meta(data.number(2).unwrap_or(u32::MAX))), // _DREG, _KEY
            "bitwise" => self.combine(data),
            "immediate" => self.immediate(data),
            _ if self.translates(name, data) => self.step = Step::Forwards,
            "byteorder" | "socket" | "tunnel" | "hash" => self.forget(data.number(2)), // their _DREG
            _ => self.forget(data.number(1)),
        }
    }

    /// Whether an expression gives a packet that arrives another destination, or one that leaves another source.
    fn translates(&self, name: &str, data: Attributes<'_>) -> bool {
        let kind = || data.number(1); // NFTA_NAT_TYPE: NFT_NAT_SNAT, NFT_NAT_DNAT
        match (name, self.packet) {
            ("nat", Packet::In(_)) => kind() == Some(1),
            ("nat", Packet::Out(_)) => kind() == Some(0),
            ("redir", Packet::In(_)) | ("masq", Packet::Out(_)) => true,
            ("target", packet) => data.text(1).is_some_and(|target| xt::translates(target, packet)), // NFTA_TARGET_NAME
            _ => false,
        }
    }

    fn load_payload(&mut self, data: Attributes<'_>) {
        // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN
        let number = |kind| data.number(kind).unwrap_or(0);
        let bytes = self.packet.payload(number(2), number(3) as usize, number(4) as usize);
        self.load(data.number(1), &bytes);
    }

    /// Fills a register; what is left of its last word is zero.
    fn load(&mut self, register: Option<u32>, bytes: &[Byte]) {
        let Some(place) = self.place(register, bytes.len().next_multiple_of(4)) else { return };
        place.fill(Byte::known(0));
        place[..bytes.len()].copy_from_slice(bytes);
    }

    fn forget(&mut self, register: Option<u32>) {
        if let Some(place) = self.place(register, 4) {
            place.fill(Byte::UNKNOWN);
        }
    }

    fn place(&mut self, register: Option<u32>, length: usize) -> Option<&mut [Byte]> {
        let first = first_byte(register?)?;
        self.registers.get_mut(first..first + length)
    }

    /// What is in a register and in those after it.
    fn registers_from(&self, register: Option<u32>) -> &[Byte] {
        let first = register.and_then(first_byte).unwrap_or(REGISTERS);
        self.registers.get(first..).unwrap_or_default()
    }

    /// The bytes of a register that are compared with as many others.
    fn operand(&self, register: Option<u32>, length: usize) -> Option<&[Byte]> {
        self.registers_from(register).get(..length)
    }

    /// Bits that are masked and inverted.
    fn combine(&mut self, data: Attributes<'_>) {
        // NFTA_BITWISE_SREG, _DREG, _MASK, _XOR, _OP; NFTA_DATA_VALUE; NFT_BITWISE_MASK_XOR
        let (mask, xor) = (data.at(&[4, 1]), data.at(&[5, 1]));
        let (Some(mask), Some(xor), None | Some(0)) = (mask, xor, data.number(6)) else {
            return self.forget(data.number(2));
        };
        let source = self.registers_from(data.number(1)).iter().zip(mask.0.iter().zip(xor.0));
        let combined = source.map(|(byte, (mask, xor))| Byte {
            value: byte.value.or((*mask == 0).then_some(0)).map(|value| value & mask ^ xor),
            ..*byte
        });
        let combined: Vec<_> = combined.collect();
        self.load(data.number(2), &combined);
    }

    fn immediate(&mut self, data: Attributes<'_>) {
        // NFTA_IMMEDIATE_DREG, _DATA; NFTA_DATA_VALUE, _VERDICT; NFTA_VERDICT_CODE, _CHAIN
        if let Some(value) = data.at(&[2, 1]) {
            let bytes: Vec<_> = value.0.iter().copied().map(Byte::known).collect();
            return self.load(data.number(1), &bytes);
        }
        let verdict = data.at(&[2, 2]);
        let chain = verdict.and_then(|verdict| verdict.text(2));
        self.step = chain.map_or(Step::Ends, |chain| Step::Chains(vec![chain.into()]));
    }

    fn compare(&self, data: Attributes<'_>) -> Verdict {
        // NFTA_CMP_SREG, _OP, _DATA; NFTA_DATA_VALUE
        let Some(wanted) = data.at(&[3, 1]) else { return Verdict::UNKNOWN };
        let Some(bytes) = self.operand(data.number(1), wanted.0.len()) else { return Verdict::UNKNOWN };
        named(bytes, compared(bytes, data.number(2), wanted.0))
    }

    fn within(&self, data: Attributes<'_>) -> Verdict {
        // NFTA_RANGE_SREG, _OP, _FROM_DATA, _TO_DATA; NFTA_DATA_VALUE; NFT_RANGE_NEQ
        let (Some(first), Some(last)) = (data.at(&[3, 1]), data.at(&[4, 1])) else { return Verdict::UNKNOWN };
        let Some(bytes) = self.operand(data.number(1), first.0.len()) else { return Verdict::UNKNOWN };
        let inside = values(bytes).map(|value| (first.0..=last.0).contains(&&value[..]));
        named(bytes, inside.map(|inside| inside != (data.number(2) == Some(1))))
    }

    fn look_up(&mut self, data: Attributes<'_>, sets: &mut impl Sets) -> Result<Verdict> {
        // NFTA_LOOKUP_SET, _SREG, _DREG, _FLAGS; NFT_LOOKUP_F_INV
        let Some(name) = data.text(1) else { return Ok(Verdict::UNKNOWN) };
        let registers = self.registers_from(data.number(2));
        let (verdict, chains) = sets.set(name)?.look_up(registers);
        if data.number(5).unwrap_or(0) & 1 != 0 {
            return Ok(named(registers.get(..4).unwrap_or_default(), verdict.holds.map(|holds| !holds)));
        }
        if !chains.is_empty() {
            self.step = Step::Chains(chains.into_iter().map(str::to_owned).collect());
        }
        self.forget(data.number(3).filter(|register| *register != 0)); // 0: a verdict
        Ok(verdict)
    }

    fn xt_match(&self, data: Attributes<'_>) -> Verdict {
        // NFTA_MATCH_NAME, NFTA_MATCH_INFO
        let info = data.get(3).map_or(&[][..], |info| info.0);
        xt::judge(data.text(1).unwrap_or_default(), info, self.packet)
    }
}

/// Where a register begins: of 16 bytes (`NFT_REG_1` to `_4`), or of four (`NFT_REG32_00` to `_15`).
fn first_byte(register: u32) -> Option<usize> {
    match register {
        1..=4 => Some((register as usize - 1) * 16),
        8..=23 => Some((register as usize - 8) * 4),
        _ => None,
    }
}

/// Compares by one of the `NFT_CMP_` operations: ==, !=, <, <=, >, >=.
fn compared(bytes: &[Byte], operation: Option<u32>, wanted: &[u8]) -> Option<bool> {
    let Some(value) = values(bytes) else {
        let mut pairs = bytes.iter().zip(wanted);
        let differs = pairs.any(|(byte, wanted)| byte.value.is_some_and(|value| value != *wanted));
        return differs.then_some(operation == Some(1)).filter(|_| matches!(operation, Some(0 | 1)));
    };
    let order = value.as_slice().cmp(wanted);
    Some(match operation? {
        0 => order.is_eq(),
        1 => order.is_ne(),
        2 => order.is_lt(),
        3 => order.is_le(),
        4 => order.is_gt(),
        5 => order.is_ge(),
        _ => return None,
    })
}
