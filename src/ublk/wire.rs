//! Numbers in the structures exchanged with the driver.
//!
//! They are a system call's structures, not a disk format: their byte order is this machine's.
//! Offsets are constants of the callers and lie inside the buffers, so nothing here can fail.
#![expect(clippy::host_endian_bytes, reason = "a kernel interface is in native byte order")]

/// "No device" and, in 16 bits, "no queue" in a command.
pub(super) const NO_DEVICE: u32 = u32::MAX;

/// Writes `value` at `offset`.
pub(super) fn put_u16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_ne_bytes());
}

/// Writes `value` at `offset`.
pub(super) fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
}

/// Writes `value` at `offset`.
pub(super) fn put_u64(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
}

/// The `N` bytes at `offset`.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

/// The number at `offset`.
pub(super) fn get_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes(array(bytes, offset))
}

/// The number at `offset`.
pub(super) fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(array(bytes, offset))
}

/// The signed number at `offset`.
pub(super) fn get_i32(bytes: &[u8], offset: usize) -> i32 {
    i32::from_ne_bytes(array(bytes, offset))
}

/// The number at `offset`.
pub(super) fn get_u64(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(array(bytes, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let mut bytes = [0; 24];
        put_u16(&mut bytes, 2, 0x1234);
        put_u32(&mut bytes, 4, 0xffff_fffe);
        put_u64(&mut bytes, 8, u64::MAX - 3);
        assert_eq!(get_u16(&bytes, 2), 0x1234);
        assert_eq!(get_u32(&bytes, 4), 0xffff_fffe);
        assert_eq!(get_i32(&bytes, 4), -2);
        assert_eq!(get_u64(&bytes, 8), u64::MAX - 3);
        assert_eq!(bytes[16..], [0; 8]);
    }
}
