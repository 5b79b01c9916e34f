//! Words ↔ tokens by their characters, words ↔ frames by their times.

/// For each word span, the last token that overlaps it (`start` inclusive, `end` exclusive, characters of one text);
/// `None` when no token does.
pub fn last_tokens(tokens: &[(usize, usize)], words: &[(usize, usize)]) -> Vec<Option<usize>> {
    words.iter().map(|word| tokens.iter().rposition(|token| token.0 < word.1 && token.1 > word.0)).collect()
}

/// For each token, the first word that it overlaps; `None` for a token between words (punctuation of its own).
pub fn words_of_tokens(tokens: &[(usize, usize)], words: &[(usize, usize)]) -> Vec<Option<usize>> {
    tokens.iter().map(|token| words.iter().position(|word| token.0 < word.1 && token.1 > word.0)).collect()
}

/// The frame nearest in time to `at` (all in seconds, `times` ascending and not empty); of two equally near the earlier.
pub fn nearest(times: &[f64], at: f64) -> usize {
    let mut best = 0;
    for (index, time) in times.iter().enumerate() {
        if (time - at).abs() < (times[best] - at).abs() {
            best = index;
        }
    }
    best
}

/// Where a clip with frames at these times (ascending) ends: the mean time of a frame behind the last. `None` for what does
/// not tell: fewer than two frames, or frames at irregular times (a gap further than a quarter of the mean from the mean), of
/// which the last may lie anywhere in the clip.
pub fn end(times: &[f64]) -> Option<f64> {
    let [first, .., last] = times else { return None };
    let gap = (last - first) / (times.len() - 1) as f64;
    let is_regular = times.windows(2).all(|pair| (pair[1] - pair[0] - gap).abs() <= gap / 4.0);
    is_regular.then_some(last + gap)
}

/// The frames from `pad` seconds before `start` to `pad` seconds after `end`; the one nearest to the middle where the
/// clip has no frame in that time.
pub fn window(times: &[f64], start: f64, end: f64, pad: f64) -> Vec<usize> {
    let inside: Vec<usize> =
        (0..times.len()).filter(|&index| times[index] >= start - pad && times[index] <= end + pad).collect();
    if inside.is_empty() { vec![nearest(times, (start + end) / 2.0)] } else { inside }
}

/// The frame of the `rank`-th (from 0) of `count` words spread evenly over `frames` frames:
/// round((rank + 0.5) / count · (frames − 1)), halves to the even frame as NumPy rounds.
pub fn rank_uniform(rank: usize, count: usize, frames: usize) -> usize {
    let place = (rank as f64 + 0.5) / count as f64 * (frames as f64 - 1.0);
    place.round_ties_even() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_overlapping_token_carries_the_word() {
        // "smiled" over three tokens, "a b" inside one token, a word that no token covers.
        let tokens = [(0, 3), (3, 5), (5, 7), (7, 11)];
        assert_eq!(last_tokens(&tokens, &[(0, 7), (8, 9), (10, 11), (20, 22)]), [Some(2), Some(3), Some(3), None]);
        assert_eq!(words_of_tokens(&tokens, &[(0, 2), (4, 7)]), [Some(0), Some(1), Some(1), None]);
    }

    #[test]
    fn of_two_equally_near_frames_the_earlier_is_taken() {
        let times = [0.0, 1.0, 1.73, 2.06];
        assert_eq!([0.5, 0.51, -3.0, 9.0].map(|at| nearest(&times, at)), [0, 1, 0, 3]);
    }

    #[test]
    fn a_window_without_frames_falls_on_the_nearest() {
        let times = [0.0, 1.0, 2.0, 3.0];
        assert_eq!(window(&times, 1.0, 1.5, 0.75), [1, 2]);
        assert_eq!(window(&times, 9.0, 9.5, 0.75), [3]);
    }

    #[test]
    fn a_clip_ends_a_frame_behind_its_last() {
        assert_eq!([end(&[0.0, 0.5, 1.0]), end(&[3.0]), end(&[])], [Some(1.5), None, None]);
        assert_eq!(end(&[0.0, 0.2, 1.0]), None, "frames at irregular times do not tell");
    }

    #[test]
    fn exact_halves_round_to_the_even_frame() {
        // numpy.round((numpy.arange(4) + 0.5) / 4 * 4) = [0, 2, 2, 4]
        assert_eq!((0..4).map(|rank| rank_uniform(rank, 4, 5)).collect::<Vec<_>>(), [0, 2, 2, 4]);
        assert_eq!((0..8).map(|rank| rank_uniform(rank, 8, 1)).collect::<Vec<_>>(), [0; 8]);
    }
}
