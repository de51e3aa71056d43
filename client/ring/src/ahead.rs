//! Asking the processor for cache lines before they are needed.
//!
//! Who publishes to one of ten thousand streams finds everything of it cold: its own accounts, header, descriptor and
//! arena of the ring, and what each reader says. Fetched one after another they cost ten times what is done with them;
//! asked for together they come together. These are hints: they read nothing, and any address will do.

/// Asks for the line at `address`, to be written to.
#[inline]
pub(crate) fn to_write<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a hint that neither reads nor faults, whatever the address; no processor of this kind lacks it.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the line at `address`, to be read.
#[inline]
pub(crate) fn to_read<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint that neither reads nor faults, whatever the address; no processor of this kind lacks it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for all lines of a value, to be written to.
#[inline]
pub fn bring<T>(value: &T) {
    const LINE_BYTES: usize = 64;
    let first = std::ptr::from_ref(value).cast::<u8>();
    for offset in (0..size_of::<T>()).step_by(LINE_BYTES) {
        to_write(first.wrapping_add(offset));
    }
}
