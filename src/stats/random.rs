//! Counter-based random streams (Philox 4x32-10, Salmon et al. 2011).
//!
//! A stream is named by (seed, stage, epoch, step, name); the same five give the same numbers on every machine, in
//! every order and on any number of threads. Nothing here has hidden state: two training steps at once draw what two
//! in turn draw, and a resumed one goes on where it was because its position is part of the name.

/// Philox 4x32 with ten rounds.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key[0] = key[0].wrapping_add(0x9E37_79B9);
        key[1] = key[1].wrapping_add(0xBB67_AE85);
    }
    counter
}

/// The family of streams of one stage under one seed.
#[derive(Clone, Debug)]
pub struct Streams {
    seed: u64,
    stage: String,
}

impl Streams {
    /// `stage` is the stage kind (`train_projector`), `seed` the one of its settings.
    pub fn new(seed: u64, stage: &str) -> Self {
        Self { seed, stage: stage.to_owned() }
    }

    /// The stream `name` (`dropout`, `order`, …) of one step of one epoch.
    pub fn at(&self, epoch: u64, step: u64, name: &str) -> Stream {
        let mut hasher = blake3::Hasher::new();
        for number in [self.seed, epoch, step] {
            hasher.update(&number.to_le_bytes());
        }
        for text in [self.stage.as_str(), name] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let digest = hasher.finalize();
        let word = |i: usize| {
            let bytes = &digest.as_bytes()[4 * i..4 * i + 4];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        Stream { key: [word(0), word(1)], high: [word(2), word(3)], block: 0, buffer: [0; 4], left: 0 }
    }

    /// The stream `name` that belongs to no epoch or step (initial values, pairings).
    pub fn named(&self, name: &str) -> Stream {
        self.at(0, 0, name)
    }
}

/// One sequence of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    high: [u32; 2],
    block: u64,
    buffer: [u32; 4],
    left: usize,
}

impl Stream {
    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            let counter = [self.block as u32, (self.block >> 32) as u32, self.high[0], self.high[1]];
            self.buffer = philox(counter, self.key);
            self.block += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.buffer[3 - self.left]
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..`bound` without bias. `bound` must not be 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        assert!(bound > 0, "`below` needs a bound of at least 1");
        let zone = u64::MAX - u64::MAX % bound;
        loop {
            let draw = self.next_u64();
            if draw < zone {
                return (draw % bound) as usize;
            }
        }
    }

    /// Uniform in 0..`bound` without bias, from 32 random bits where they suffice (Lemire 2019): several times faster than
    /// [`Stream::below`], and another sequence. `bound` must not be 0.
    pub fn below_u32(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "`below_u32` needs a bound of at least 1");
        let mut wide = u64::from(self.next_u32()) * u64::from(bound);
        if (wide as u32) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (wide as u32) < threshold {
                wide = u64::from(self.next_u32()) * u64::from(bound);
            }
        }
        (wide >> 32) as u32
    }

    /// True with probability `p`.
    pub fn coin(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Standard normal (Box and Muller; the second value of each pair is not kept, so position is draw count).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// `count` values uniform in [`low`, `high`).
    pub fn uniforms(&mut self, count: usize, low: f64, high: f64) -> Vec<f32> {
        (0..count).map(|_| (low + (high - low) * self.uniform()) as f32).collect()
    }

    /// `count` normal values with mean 0 and the given standard deviation.
    pub fn normals(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        (0..count).map(|_| (deviation * self.normal()) as f32).collect()
    }

    /// Inverted-dropout factors: 0 with probability `p`, else 1 / (1 − p).
    pub fn dropout(&mut self, count: usize, p: f64) -> Vec<f32> {
        let keep = (1.0 / (1.0 - p)) as f32;
        (0..count).map(|_| if self.coin(p) { 0.0 } else { keep }).collect()
    }

    /// Puts `items` in random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// A random order of 0..`count`.
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        self.shuffle(&mut order);
        order
    }

    /// A random permutation of 0..`count` that moves every element; `None` for fewer than two elements.
    pub fn derangement(&mut self, count: usize) -> Option<Vec<usize>> {
        if count < 2 {
            return None;
        }
        loop {
            let order = self.permutation(count);
            if order.iter().enumerate().all(|(i, &to)| i != to) {
                return Some(order);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // Known-answer tests of the Random123 distribution (kat_vectors, philox4x32 10).
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_differ_in_every_part_of_their_name() {
        let base = Streams::new(1, "a").at(2, 3, "x").next_u64();
        assert_eq!(base, Streams::new(1, "a").at(2, 3, "x").next_u64());
        for other in [
            Streams::new(2, "a").at(2, 3, "x"),
            Streams::new(1, "b").at(2, 3, "x"),
            Streams::new(1, "a").at(3, 3, "x"),
            Streams::new(1, "a").at(2, 4, "x"),
            Streams::new(1, "a").at(2, 3, "y"),
            Streams::new(1, "ax").at(2, 3, ""),
        ] {
            assert_ne!(base, other.clone().next_u64());
        }
    }

    #[test]
    fn draws_have_the_moments_they_should() {
        let mut stream = Streams::new(0, "test").named("moments");
        let normals: Vec<f64> = (0..20_000).map(|_| stream.normal()).collect();
        let mean = normals.iter().sum::<f64>() / 20_000.0;
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "mean {mean}, variance {variance}");
        let mut counts = [0usize; 7];
        (0..70_000).for_each(|_| counts[stream.below(7)] += 1);
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 400), "{counts:?}");
        let mut counts = [0usize; 7];
        (0..70_000).for_each(|_| counts[stream.below_u32(7) as usize] += 1);
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 400), "{counts:?}");
        let order = stream.derangement(9).expect("nine elements can be deranged");
        assert!(order.iter().enumerate().all(|(i, &to)| i != to));
    }
}
