//! The search of a leaf, which is on the path of every request to a snapshot. Pure.

use super::{LEAF_RUNS, Run};

/// Half a leaf.
const HALF: usize = LEAF_RUNS / 2;

impl Run {
    /// The position in a leaf of the first run behind a chunk. Two windows of half a leaf cover
    /// each leaf that is no shorter than one; the search of a window is unrolled and checks no
    /// bounds.
    #[inline]
    pub(super) fn position_in(runs: &[Run], chunk: u64) -> usize {
        if let Some(middle) = runs.len().checked_sub(HALF) {
            let start = if runs[middle].old <= chunk { middle } else { 0 };
            if let Some(window) = runs[start..].first_chunk::<HALF>() {
                let mut at = 0;
                for step in [64, 32, 16, 8, 4, 2, 1] {
                    at = if window[at | step].old <= chunk { at | step } else { at };
                }
                return start + at + usize::from(window[at].old <= chunk);
            }
        }
        runs.partition_point(|run| run.old <= chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_of_all_lengths_are_searched() {
        for len in 0..=LEAF_RUNS {
            let runs: Vec<_> = (1..).step_by(2).take(len).map(|old| Run::one(old, 0)).collect();
            for chunk in 0..2 * LEAF_RUNS as u64 + 3 {
                let behind = runs.iter().take_while(|run| run.old <= chunk).count();
                assert_eq!(Run::position_in(&runs, chunk), behind, "{len} {chunk}");
            }
        }
    }
}
