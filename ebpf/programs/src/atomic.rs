//! Changes of which none is lost when two CPUs make them at once; `core` has no atomics for this target.

use core::arch::asm;

/// Adds `change` to the number that `counter`, a map's value, points to.
#[inline(always)]
pub fn add(counter: *mut i64, change: i64) {
    // SAFETY: a map's memory stays a number as long as the program runs.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) change) };
}

/// Adds `change` to a number; returns what it was.
#[inline(always)]
pub fn fetch_add(counter: *mut u64, mut change: u64) -> u64 {
    // SAFETY: as in `add`.
    unsafe {
        asm!("{1} = atomic_fetch_add((u64 *)({0} + 0), {1})", in(reg) counter, inout(reg) change);
    }
    change
}

/// Puts `value` in place of a number; returns what it was. What is written before it is seen before it, as with `fetch_add`.
#[inline(always)]
pub fn swap(word: *mut u64, mut value: u64) -> u64 {
    // SAFETY: as in `add`.
    unsafe { asm!("{1} = xchg_64({0} + 0, {1})", in(reg) word, inout(reg) value) };
    value
}

/// Sets the bits of `mask`.
#[inline(always)]
pub fn set(word: *mut u64, mask: u64) {
    // SAFETY: as in `add`.
    unsafe { asm!("lock *(u64 *)({0} + 0) |= {1}", in(reg) word, in(reg) mask) };
}

/// Clears the bits of `mask`.
#[inline(always)]
pub fn clear(word: *mut u64, mask: u64) {
    // SAFETY: as in `add`.
    unsafe { asm!("lock *(u64 *)({0} + 0) &= {1}", in(reg) word, in(reg) !mask) };
}
