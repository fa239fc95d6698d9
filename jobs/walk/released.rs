//! What was released does not change: `jobs/released/<kind>.jsonl` is only ever added to.

use std::path::Path;

use super::reads::assert_reads;
use crate::machine::Job;

/// Lines that were released, and their digest: they never change.
pub struct Released {
    pub lines: usize,
    pub digest: u64,
}

/// FNV-1a: the same for ever, and enough against a slip of the hand.
fn digest<'a>(lines: impl Iterator<Item = &'a str>) -> u64 {
    lines
        .flat_map(|line| line.bytes().chain([b'\n']))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Every line reads; every name of this version is there; what was released is as it was.
pub fn assert_released<J: Job>(samples: &[(J::State, J::Args)], undos: &[J::Undo], released: &Released) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("released/{}.jsonl", J::KIND.name()));
    let text = assert_reads::<J>(&path, samples, undos);
    let now = digest(text.lines().take(released.lines));
    assert_eq!(now, released.digest, "{}: lines that were released have changed (digest {now:#x})", path.display());
}
