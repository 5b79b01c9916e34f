//! The elementwise parts of a Gemma layer as single passes over f32 slices, for the CPU backend.
//!
//! Burn's CPU backend runs one pass per operation and calls the C library for every exponential; small models spend
//! most of their time there. Here each part is one pass, and exp and tanh are polynomials (Cephes) that the compiler
//! turns into vector code. No fused multiply-add is used and rows are independent, so results depend neither on the
//! instruction set nor on the number of threads.

use rayon::prelude::*;

/// Values below which splitting over threads costs more than it saves.
const PARALLEL: usize = 1 << 16;

/// Runs `each(row index, row)` on the rows of `out`, on all threads when there is enough to do.
fn rows<F: Fn(usize, &mut [f32]) + Sync>(out: &mut [f32], width: usize, each: F) {
    if out.len() < PARALLEL {
        out.chunks_exact_mut(width).enumerate().for_each(|(index, row)| each(index, row));
    } else {
        let many = (PARALLEL / 4).div_ceil(width);
        out.par_chunks_mut(many * width).enumerate().for_each(|(block, part)| {
            part.chunks_exact_mut(width).enumerate().for_each(|(index, row)| each(block * many + index, row));
        });
    }
}

/// e^x to about two units in the last place; 0 below −87, the largest finite value above 88.
#[inline(always)]
fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = clamped - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let mut y = 1.987_569_1e-4f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        y = y * rest + coefficient;
    }
    let y = y * rest * rest + rest + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { y * power }
}

/// tanh to about two units in the last place.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let size = x.abs();
    let z = x * x;
    let mut small = -5.704_989e-3f32;
    for coefficient in [2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8] {
        small = small * z + coefficient;
    }
    let small = small * z * x + x;
    let large = (1.0 - 2.0 / (exp(2.0 * size) + 1.0)).copysign(x);
    if size < 0.625 { small } else { large }
}

/// 1 / (1 + e^(−x)).
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sums in sixteen lanes, in an order that depends on nothing but the length.
#[inline(always)]
fn sum_of(count: usize, value: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let whole = count - count % 16;
    for start in (0..whole).step_by(16) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += value(start + lane);
        }
    }
    for index in whole..count {
        lanes[index - whole] += value(index);
    }
    lanes.iter().sum()
}

/// The largest value, in sixteen lanes.
#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (whole, rest) = row.as_chunks::<16>();
    for chunk in whole {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &value| if value > most { value } else { most })
}

/// `x · rsqrt(mean(x²) + ε) · gain` per row.
pub(super) fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32) -> Vec<f32> {
    let width = gain.len();
    let mut out = vec![0f32; x.len()];
    rows(&mut out, width, |index, out| {
        let x = &x[index * width..][..width];
        let scale = 1.0 / (sum_of(width, |i| x[i] * x[i]) / width as f32 + epsilon).sqrt();
        for ((out, &x), &gain) in out.iter_mut().zip(x).zip(gain) {
            *out = x * scale * gain;
        }
    });
    out
}

/// The gradient of [`rms_norm`] at `x`, in place of the gradient at its result.
pub(super) fn rms_norm_backward(x: &[f32], gain: &[f32], epsilon: f32, gradient: &mut [f32]) {
    let width = gain.len();
    rows(gradient, width, |index, gradient| {
        let x = &x[index * width..][..width];
        let scale = 1.0 / (sum_of(width, |i| x[i] * x[i]) / width as f32 + epsilon).sqrt();
        let along = sum_of(width, |i| gradient[i] * gain[i] * x[i]) / width as f32 * scale * scale * scale;
        for ((gradient, &x), &gain) in gradient.iter_mut().zip(x).zip(gain) {
            *gradient = *gradient * gain * scale - x * along;
        }
    });
}

/// 2 √(2/π) and 2 √(2/π) · 0.044715: GELU's tanh approximation is `x · σ(BEND · x + CUBE · x³)`.
const BEND: f32 = 1.595_769;
const CUBE: f32 = 0.071_354_814;

/// `gelu(gate) · up`.
pub(super) fn geglu(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut out = vec![0f32; gate.len()];
    let width = 64.min(gate.len().max(1));
    let pass = |start: usize, out: &mut [f32]| {
        let (gate, up) = (&gate[start..][..out.len()], &up[start..][..out.len()]);
        for ((out, &x), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = x * sigmoid(x * (BEND + CUBE * x * x)) * up;
        }
    };
    if out.len().is_multiple_of(width) {
        rows(&mut out, width, |row, out| pass(row * width, out))
    } else {
        pass(0, &mut out)
    }
    out
}

/// Gradients of [`geglu`], in place of `gate` and `up`.
pub(super) fn geglu_backward(gate: &mut [f32], up: &mut [f32], gradient: &[f32]) {
    let pass = |gate: &mut [f32], up: &mut [f32], gradient: &[f32]| {
        for ((gate, up), &gradient) in gate.iter_mut().zip(up).zip(gradient) {
            let x = *gate;
            let part = sigmoid(x * (BEND + CUBE * x * x));
            let slope = part + x * part * (1.0 - part) * (BEND + 3.0 * CUBE * x * x);
            *gate = gradient * *up * slope;
            *up = gradient * x * part;
        }
    };
    if gradient.len() < PARALLEL {
        return pass(gate, up, gradient);
    }
    let size = PARALLEL / 4;
    let parts = gate.par_chunks_mut(size).zip(up.par_chunks_mut(size)).zip(gradient.par_chunks(size));
    parts.for_each(|((gate, up), gradient)| pass(gate, up, gradient));
}

/// Attention weights of raw scores (already scaled, and divided by the cap if there is one), rows `[…, query, key]`
/// with `tokens` queries and keys; a query sees the last `window` keys up to its own. Returns the weights; `scores`
/// become tanh(scores) if there is a cap, which is what the backward pass needs.
pub(super) fn attention_weights(scores: &mut [f32], tokens: usize, window: usize, cap: Option<f32>) -> Vec<f32> {
    let mut out = vec![0f32; scores.len()];
    let pass = |first: usize, scores: &mut [f32], out: &mut [f32]| {
        let both = scores.chunks_exact_mut(tokens).zip(out.chunks_exact_mut(tokens));
        for (index, (scores, out)) in both.enumerate() {
            let query = (first + index) % tokens;
            let seen = (query + 1).saturating_sub(window)..query + 1;
            let (scores, out) = (&mut scores[seen.clone()], &mut out[seen]);
            match cap {
                Some(cap) => scores.iter_mut().zip(out.iter_mut()).for_each(|(score, out)| {
                    *score = tanh(*score);
                    *out = cap * *score;
                }),
                None => out.copy_from_slice(scores),
            }
            let most = largest(out);
            out.iter_mut().for_each(|out| *out = exp(*out - most));
            let total = 1.0 / sum_of(out.len(), |i| out[i]);
            out.iter_mut().for_each(|out| *out *= total);
        }
    };
    if scores.len() < PARALLEL {
        pass(0, scores, &mut out);
    } else {
        let many = (PARALLEL / 4).div_ceil(tokens);
        let parts = scores.par_chunks_mut(many * tokens).zip(out.par_chunks_mut(many * tokens));
        parts.enumerate().for_each(|(block, (scores, out))| pass(block * many, scores, out));
    }
    out
}

/// The gradient at the raw scores, in place of the gradient at the weights. `bent` are the tanh values if there is a
/// cap; positions that are not seen have weight 0, and so gradient 0.
pub(super) fn attention_weights_backward(
    weights: &[f32],
    bent: Option<(&[f32], f32)>,
    tokens: usize,
    window: usize,
    gradient: &mut [f32],
) {
    rows(gradient, tokens, |index, gradient| {
        let query = index % tokens;
        let seen = (query + 1).saturating_sub(window)..query + 1;
        let start = index * tokens;
        let weights = &weights[start + seen.start..start + seen.end];
        let (before, rest) = gradient.split_at_mut(seen.start);
        let (gradient, after) = rest.split_at_mut(weights.len());
        let mean = sum_of(weights.len(), |i| weights[i] * gradient[i]);
        match bent {
            Some((bent, cap)) => {
                let bent = &bent[start + seen.start..start + seen.end];
                for ((gradient, &weight), &bent) in gradient.iter_mut().zip(weights).zip(bent) {
                    *gradient = weight * (*gradient - mean) * cap * (1.0 - bent * bent);
                }
            }
            None => {
                gradient.iter_mut().zip(weights).for_each(|(gradient, &weight)| *gradient = weight * (*gradient - mean))
            }
        }
        before.fill(0.0);
        after.fill(0.0);
    });
}

/// Rows `[batch · tokens, heads · width]` as heads `[batch, heads, tokens, width]`, turned by rotary factors
/// `[tokens, width]` (cos, signed sin) if given.
pub(super) fn split_heads(
    rows_in: &[f32],
    (tokens, heads, width): (usize, usize, usize),
    rotary: Option<(&[f32], &[f32])>,
) -> Vec<f32> {
    let mut out = vec![0f32; rows_in.len()];
    rows(&mut out, width, |index, out| {
        let (head, token) = ((index / tokens) % heads, index % tokens);
        let batch = index / (tokens * heads);
        let source = &rows_in[((batch * tokens + token) * heads + head) * width..][..width];
        match rotary {
            Some((cos, sin)) => turn(source, &cos[token * width..][..width], &sin[token * width..][..width], out),
            None => out.copy_from_slice(source),
        }
    });
    out
}

/// The way back: heads `[batch, heads, tokens, width]` as rows `[batch · tokens, heads · width]`, turned the other way
/// if rotary factors are given. It is the gradient of [`split_heads`], and without factors its inverse.
pub(super) fn join_heads(
    heads_in: &[f32],
    (tokens, heads, width): (usize, usize, usize),
    rotary: Option<(&[f32], &[f32])>,
) -> Vec<f32> {
    let mut out = vec![0f32; heads_in.len()];
    rows(&mut out, width, |index, out| {
        let head = index % heads;
        let (batch, token) = ((index / heads) / tokens, (index / heads) % tokens);
        let source = &heads_in[((batch * heads + head) * tokens + token) * width..][..width];
        match rotary {
            // The turn's matrix is cos + sin · swap; its transpose is cos + swap · sin.
            Some((cos, sin)) => turn_back(source, &cos[token * width..][..width], &sin[token * width..][..width], out),
            None => out.copy_from_slice(source),
        }
    });
    out
}

#[inline(always)]
fn turn(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = x.len() / 2;
    for i in 0..half {
        out[i] = x[i] * cos[i] + x[i + half] * sin[i];
    }
    for i in 0..half {
        out[i + half] = x[i + half] * cos[i + half] + x[i] * sin[i + half];
    }
}

#[inline(always)]
fn turn_back(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let half = x.len() / 2;
    for i in 0..half {
        out[i] = x[i] * cos[i] + x[i + half] * sin[i + half];
    }
    for i in 0..half {
        out[i + half] = x[i + half] * cos[i + half] + x[i] * sin[i];
    }
}

/// −ln p of the targets from raw logits `[rows, vocabulary]`, soft-capped by `cap`. With weights, the logits become
/// the gradient of Σ weight · nll at the raw logits; without, their values are spent.
pub(super) fn nll(
    logits: &mut [f32],
    vocabulary: usize,
    cap: Option<f32>,
    targets: &[u32],
    weights: Option<&[f32]>,
) -> Vec<f32> {
    let one = |row: usize, logits: &mut [f32]| {
        let target = targets[row] as usize;
        if let Some(cap) = cap {
            logits.iter_mut().for_each(|logit| *logit = cap * tanh(*logit / cap));
        }
        let most = largest(logits);
        let chosen = logits[target] - most;
        let total = sum_of(vocabulary, |i| exp(logits[i] - most));
        if let Some(weights) = weights {
            let scale = weights[row] / total;
            let slope = |value: f32| cap.map_or(1.0, |cap| 1.0 - (value / cap) * (value / cap));
            let at_target = -weights[row] * slope(logits[target]);
            match cap {
                Some(cap) => {
                    let inverse = 1.0 / cap;
                    logits.iter_mut().for_each(|logit| {
                        let bent = *logit * inverse;
                        *logit = exp(*logit - most) * scale * (1.0 - bent * bent);
                    });
                }
                None => logits.iter_mut().for_each(|logit| *logit = exp(*logit - most) * scale),
            }
            logits[target] += at_target;
        }
        total.ln() - chosen
    };
    if logits.len() < PARALLEL {
        logits.chunks_exact_mut(vocabulary).enumerate().map(|(row, logits)| one(row, logits)).collect()
    } else {
        logits.par_chunks_exact_mut(vocabulary).enumerate().map(|(row, logits)| one(row, logits)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_right_to_the_last_places() {
        let mut worst = (0f64, 0f64);
        for step in -86_990..88_000 {
            let x = step as f32 * 1e-3;
            let expected = f64::from(x).exp();
            worst.0 = worst.0.max((f64::from(exp(x)) - expected).abs() / expected);
            let expected = f64::from(x * 0.2).tanh();
            let scale = expected.abs().max(1e-30);
            worst.1 = worst.1.max((f64::from(tanh(x * 0.2)) - f64::from(x * 0.2).tanh()).abs() / scale);
        }
        assert!(worst.0 < 2.5e-7 && worst.1 < 2.5e-7, "relative errors {worst:?}");
        assert_eq!((exp(-100.0), exp(0.0), tanh(0.0), tanh(20.0), tanh(-20.0)), (0.0, 1.0, 0.0, 1.0, -1.0));
    }

    #[test]
    fn heads_are_joined_as_they_were_split() {
        let rows: Vec<f32> = (0..2 * 3 * 4 * 6).map(|i| i as f32).collect();
        let heads = split_heads(&rows, (3, 4, 6), None);
        assert_ne!(rows, heads);
        assert_eq!(join_heads(&heads, (3, 4, 6), None), rows);
    }

    #[test]
    fn threads_change_no_bit() {
        let many: Vec<f32> = (0..PARALLEL * 2).map(|i| ((i * 7919) % 1000) as f32 * 1e-3 - 0.5).collect();
        let gain = vec![1.1f32; 64];
        let together = rms_norm(&many, &gain, 1e-6);
        let apart: Vec<f32> = many.chunks(64 * 16).flat_map(|part| rms_norm(part, &gain, 1e-6)).collect();
        assert_eq!(together, apart);
    }
}
