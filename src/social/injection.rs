//! Social tokens in their places: from samples and vectors to the inputs of the language model's first layer.
//!
//! Three steps. [`Bank`] holds the vectors that the projector reads and says which of them each social token is made of;
//! [`prepare`] settles ids, places and labels of every sample once; [`Batch`] pads some samples to the right and joins
//! text rows with projected rows by one concatenation and one selection, so no value is computed on the way.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::packs::{GlobalMode, Local, Packs};
use super::prompt::EmbeddingScale;
use super::samples::{Sequence, Slot};
use crate::models::gemma::Gemma;
use crate::npy::Array;
use crate::stages::{Result, StageError};
use crate::stats::random::Streams;

/// The vectors that the projector reads, and which of them a social token is made of.
pub struct Bank<'a> {
    packs: &'a Packs,
    /// `[rows, dim]`: the packs' globals, then their locals, then causal means; or the constants of global and local
    /// tokens; or one vector of noise per clip.
    pub vectors: Array<f32>,
    kind: Kind,
}

/// What the rows of a bank are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Features,
    Constants,
    Noise,
}

impl<'a> Bank<'a> {
    /// The packs' own vectors.
    pub fn of_features(packs: &'a Packs) -> Self {
        let mut values = packs.global.values.clone();
        values.extend(&packs.locals.values);
        let mut rows = packs.global.shape[0] + packs.locals.shape[0];
        if let Some(causal) = &packs.causal {
            values.extend(&causal.means.values);
            rows += causal.means.shape[0];
        }
        Self { packs, vectors: Array::new([rows, packs.dim()], values), kind: Kind::Features }
    }

    /// One vector for every global token and, after it, one for the local tokens of each place in their utterance, the
    /// last one for all further places: `[2, dim]` or more rows.
    pub fn of_constants(packs: &'a Packs, constants: Array<f32>) -> Self {
        Self { packs, vectors: constants, kind: Kind::Constants }
    }

    /// Normal noise, one vector for all tokens of a clip: `[clips, dim]`. It depends on the clip's name and `seed` only,
    /// and has the root mean square of the packs' global vectors.
    pub fn of_noise(packs: &'a Packs, seed: u64) -> Self {
        let squares: f64 = packs.global.values.iter().map(|&x| f64::from(x).powi(2)).sum();
        let size = (squares / packs.global.values.len().max(1) as f64).sqrt();
        let streams = Streams::new(seed, "noise");
        let drawn = packs.clips.iter().flat_map(|clip| streams.named(&clip.clip_id).normals(packs.dim(), size));
        Self { packs, vectors: Array::new([packs.clips.len(), packs.dim()], drawn.collect()), kind: Kind::Noise }
    }

    /// The means of the vectors of these clips' global and local tokens, `[2, dim]`; without locals, twice the first.
    pub fn means(packs: &Packs, clips: &[usize]) -> Array<f32> {
        let mean = |array: &Array<f32>, rows: &[usize]| {
            let mut sum = vec![0.0f64; packs.dim()];
            for &row in rows {
                sum.iter_mut().zip(array.row(row)).for_each(|(sum, &x)| *sum += f64::from(x));
            }
            sum.iter().map(|sum| (sum / rows.len() as f64) as f32).collect::<Vec<_>>()
        };
        let locals: Vec<usize> =
            clips.iter().flat_map(|&clip| packs.clips[clip].locals.iter().map(|local| local.row)).collect();
        let mut values = mean(&packs.global, clips);
        let second = if locals.is_empty() { values.clone() } else { mean(&packs.locals, &locals) };
        values.extend(second);
        Array::new([2, packs.dim()], values)
    }

    /// [`Bank::means`] with the second row once for every place that a local token has in its utterance.
    pub fn means_by_place(packs: &Packs, clips: &[usize]) -> Array<f32> {
        let means = Self::means(packs, clips);
        let locals = clips.iter().map(|&clip| &packs.clips[clip].locals);
        let longest = |locals: &Vec<Local>| (0..locals.len()).map(|place| place_in_utterance(locals, place) + 1).max();
        let places = locals.filter_map(longest).max().unwrap_or(1);
        let mut values = means.row(0).to_vec();
        (0..places).for_each(|_| values.extend(means.row(1)));
        Array::new([1 + places, packs.dim()], values)
    }

    /// Rows of [`Bank::vectors`] whose projections' mean is the token in `slot` of clip `own` (a row of the packs) when
    /// the vectors come from clip `from`. The r-th of M local tokens takes the vector of that rank among the locals of
    /// `from`, or the global one of a clip without locals. `until` is the end of what a causal global token may see.
    fn rows(&self, slot: Slot, own: usize, from: usize, until: Option<f64>) -> Result<Vec<usize>> {
        let locals = &self.packs.clips[from].locals;
        let first_local = self.packs.clips.len();
        Ok(match slot {
            Slot::Global if self.kind == Kind::Constants => vec![0],
            Slot::Local(place) if self.kind == Kind::Constants => {
                vec![1 + place_in_utterance(&self.packs.clips[own].locals, place).min(self.vectors.shape[0] - 2)]
            }
            Slot::Global | Slot::Local(_) if self.kind == Kind::Noise => vec![from],
            Slot::Global if self.packs.global_mode == GlobalMode::ClipMean => vec![from],
            Slot::Global if self.packs.global_mode == GlobalMode::CausalMean => {
                vec![first_local + self.packs.locals.shape[0] + self.packs.causal_row(from, until)?]
            }
            Slot::Global if locals.is_empty() => {
                return Err(StageError::hint(
                    format!("clip `{}` has no local token to make its global one of", self.packs.clips[from].clip_id),
                    "set `global_mode = \"clip_mean\"` in the packs, or leave such clips out",
                ));
            }
            Slot::Global => locals.iter().map(|local| first_local + local.row).collect(),
            Slot::Local(_) if locals.is_empty() => vec![from],
            Slot::Local(place) => {
                let count = self.packs.clips[own].locals.len();
                vec![first_local + locals[(2 * place + 1) * locals.len() / (2 * count)].row]
            }
            Slot::Bos(_) | Slot::Text(_) | Slot::Eos(_) | Slot::Zeroed => Vec::new(),
        })
    }
}

/// How many local tokens of the same utterance stand before the one at `place`; those of an utterance are next to each
/// other.
fn place_in_utterance(locals: &[Local], place: usize) -> usize {
    let utterance = locals[place].utterance;
    locals[..place].iter().rev().take_while(|local| local.utterance == utterance).count()
}

/// A sample with everything settled that does not change between steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// Token ids; any id where a social token stands.
    ids: Vec<u32>,
    /// Positions of social tokens and the bank's rows that they are made of.
    social: Vec<(usize, Vec<usize>)>,
    /// Positions that hold a vector of zeros.
    zeroed: Vec<usize>,
    /// Positions that predict, and the ids that they should.
    labels: Vec<(usize, u32)>,
}

impl Prepared {
    /// Length in tokens.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// Settles samples. `places` gives the packs' row of each clip, `sources` the row that its vectors come from (the same
/// unless clips are paired wrongly on purpose); both are by number of the clip and unused without social tokens.
pub fn prepare(
    sequences: &[Sequence],
    bank: Option<&Bank>,
    places: &[usize],
    sources: &[usize],
    pad: u32,
) -> Result<Vec<Prepared>> {
    sequences
        .iter()
        .map(|sequence| {
            let mut social = Vec::new();
            for (position, &slot) in sequence.slots.iter().enumerate() {
                if let (true, Some(bank)) = (slot.is_social(), bank) {
                    let (own, from) = (places[sequence.clip], sources[sequence.clip]);
                    social.push((position, bank.rows(slot, own, from, sequence.until)?));
                }
            }
            let zeroed = sequence.slots.iter().enumerate().filter(|(_, slot)| **slot == Slot::Zeroed);
            let zeroed = zeroed.map(|(position, _)| position).collect();
            let ids = sequence.slots.iter().map(|slot| slot.id().unwrap_or(pad)).collect();
            let labels = sequence.targets.iter().map(|target| (target.position - 1, target.id)).collect();
            Ok(Prepared { ids, social, zeroed, labels })
        })
        .collect()
}

/// Groups of at most `size` samples of like length: the numbers of the samples, longest groups last.
pub fn by_length(samples: &[Prepared], size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&sample| (samples[sample].tokens(), sample));
    order.chunks(size.max(1)).map(<[usize]>::to_vec).collect()
}

/// Samples side by side, padded to the right.
pub struct Batch {
    samples: usize,
    tokens: usize,
    ids: Vec<i64>,
    /// The bank's row of each row that the projector reads.
    pub rows: Vec<i64>,
    /// Flat places (sample · tokens + position) of the social tokens.
    places: Vec<i64>,
    /// Flat places of vectors of zeros.
    zeroed: Vec<i64>,
    /// `[social tokens, rows]`: how tokens are made of projected rows, when not one of each.
    mixture: Option<Vec<f32>>,
    /// (sample of the batch, position) that predict.
    pub labels: Vec<(usize, usize)>,
    /// What they should predict.
    pub targets: Vec<u32>,
}

impl Batch {
    /// Joins samples.
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a Prepared>, pad: u32) -> Self {
        let samples: Vec<&Prepared> = samples.into_iter().collect();
        let tokens = samples.iter().map(|sample| sample.tokens()).max().unwrap_or(0);
        let mut batch = Self {
            samples: samples.len(),
            tokens,
            ids: vec![i64::from(pad); samples.len() * tokens],
            rows: Vec::new(),
            places: Vec::new(),
            zeroed: Vec::new(),
            mixture: None,
            labels: Vec::new(),
            targets: Vec::new(),
        };
        let mut groups: Vec<usize> = Vec::new();
        for (number, sample) in samples.iter().enumerate() {
            let start = number * tokens;
            for (slot, &id) in batch.ids[start..].iter_mut().zip(&sample.ids) {
                *slot = i64::from(id);
            }
            for (position, rows) in &sample.social {
                batch.places.push((start + position) as i64);
                batch.rows.extend(rows.iter().map(|&row| row as i64));
                groups.push(rows.len());
            }
            batch.zeroed.extend(sample.zeroed.iter().map(|position| (start + position) as i64));
            batch.labels.extend(sample.labels.iter().map(|&(position, _)| (number, position)));
            batch.targets.extend(sample.labels.iter().map(|&(_, id)| id));
        }
        if groups.iter().any(|&count| count != 1) {
            let mut mixture = vec![0.0; groups.len() * batch.rows.len()];
            let mut column = 0;
            for (token, &count) in groups.iter().enumerate() {
                let start = token * batch.rows.len() + column;
                mixture[start..start + count].fill(1.0 / count as f32);
                column += count;
            }
            batch.mixture = Some(mixture);
        }
        batch
    }

    /// Samples and tokens of the padded batch.
    pub fn shape(&self) -> (usize, usize) {
        (self.samples, self.tokens)
    }

    /// Whether there is any social token.
    pub fn is_social(&self) -> bool {
        !self.places.is_empty()
    }

    /// The rows of `bank` `[rows, dim]` that the projector reads.
    pub fn projector_inputs(&self, bank: &Tensor<2>) -> Tensor<2> {
        bank.clone().select(0, integers(&self.rows, &bank.device()))
    }

    /// Social tokens `[social tokens, hidden]` from projected rows `[rows, hidden]`.
    pub fn social(&self, projected: Tensor<2>) -> Tensor<2> {
        match &self.mixture {
            None => projected,
            Some(mixture) => {
                let shape = [self.places.len(), self.rows.len()];
                let weights = Tensor::<2>::from_data(TensorData::new(mixture.clone(), shape), &projected.device());
                weights.matmul(projected)
            }
        }
    }

    /// What enters the first layer, `[samples, tokens, hidden]`: text rows, and `social` `[social tokens, hidden]` (on
    /// the model's plain device) in its places.
    pub fn inputs(&self, gemma: &Gemma, social: Option<Tensor<2>>, scale: EmbeddingScale) -> Tensor<3> {
        let device = gemma.device();
        let ids = TensorData::new(self.ids.clone(), [self.samples, self.tokens]);
        let rows = gemma.rows(Tensor::<2, Int>::from_data(ids, &device));
        let shape @ [samples, tokens, hidden] = rows.dims();
        let factor = gemma.embedding_scale();
        let social = social.filter(|_| self.is_social());
        if social.is_none() && self.zeroed.is_empty() {
            return rows.mul_scalar(factor);
        }
        let flat = rows.reshape([samples * tokens, hidden]);
        let flat = if scale == EmbeddingScale::Before { flat.mul_scalar(factor) } else { flat };
        let mut index: Vec<i64> = (0..(samples * tokens) as i64).collect();
        let mut parts = vec![flat];
        if let Some(social) = social {
            for (number, &place) in self.places.iter().enumerate() {
                index[place as usize] = (samples * tokens + number) as i64;
            }
            parts.push(social);
        }
        if !self.zeroed.is_empty() {
            let row = parts.iter().map(|part| part.dims()[0] as i64).sum();
            self.zeroed.iter().for_each(|&place| index[place as usize] = row);
            parts.push(Tensor::zeros([1, hidden], (&device, parts[0].dtype())));
        }
        let joined = Tensor::cat(parts, 0).select(0, integers(&index, &device));
        let joined = if scale == EmbeddingScale::After { joined.mul_scalar(factor) } else { joined };
        joined.reshape(shape)
    }

    /// −ln p `[labels]` of the targets in nats, given the hidden states `[samples, tokens, hidden]` after the final norm.
    pub fn nll(&self, gemma: &Gemma, hidden: Tensor<3>) -> Tensor<1> {
        let [samples, tokens, width] = hidden.dims();
        let device = hidden.device();
        let places: Vec<i64> =
            self.labels.iter().map(|&(sample, position)| (sample * tokens + position) as i64).collect();
        let rows = hidden.reshape([samples * tokens, width]).select(0, integers(&places, &device));
        let targets: Vec<i64> = self.targets.iter().map(|&id| i64::from(id)).collect();
        gemma.nll(rows, integers(&targets, &device))
    }

    /// The gradient at the social tokens `[social tokens, hidden]`, given the one at the inputs of the first layer.
    pub fn social_gradient(&self, gradient: Tensor<3>, gemma: &Gemma, scale: EmbeddingScale) -> Tensor<2> {
        let [samples, tokens, hidden] = gradient.dims();
        let device = gradient.device();
        let chosen = gradient.reshape([samples * tokens, hidden]).select(0, integers(&self.places, &device));
        match scale {
            EmbeddingScale::Before => chosen,
            EmbeddingScale::After => chosen.mul_scalar(gemma.embedding_scale()),
        }
    }
}

fn integers(values: &[i64], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

#[cfg(test)]
mod tests {
    use super::super::packs::{Causal, PackedClip};
    use super::super::samples::{Class, Target};
    use super::*;
    use crate::models::gemma::GemmaConfig;

    fn packs(global_mode: GlobalMode) -> Packs {
        let local = |word, row| Local { utterance: 0, word, frames: vec![0], row };
        let clip = |name: &str, locals| PackedClip { clip_id: name.into(), split: None, group: None, locals };
        let clips = vec![
            clip("a", vec![local(0, 0), local(1, 1)]),
            clip("b", vec![local(0, 2), local(1, 3), local(2, 4), local(3, 5)]),
            clip("c", vec![]),
        ];
        let global = Array::new([3, 1], vec![10.0, 20.0, 30.0]);
        let locals = Array::new([6, 1], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        Packs::new(clips, global, locals, global_mode, true)
    }

    #[test]
    fn tokens_find_their_vectors() {
        let packs = packs(GlobalMode::ClipMean);
        let bank = Bank::of_features(&packs);
        let value = |slot, own, from| bank.vectors.row(bank.rows(slot, own, from, None).unwrap()[0])[0];
        assert_eq!((value(Slot::Global, 0, 0), value(Slot::Global, 0, 1)), (10.0, 20.0));
        assert_eq!((value(Slot::Local(1), 0, 0), value(Slot::Local(3), 1, 1)), (2.0, 6.0));
        // Ranks 0 and 1 of 2 fall on 1 and 3 of 4, and four fall on two twice each.
        assert_eq!((value(Slot::Local(0), 0, 1), value(Slot::Local(1), 0, 1)), (4.0, 6.0));
        assert_eq!([0, 1, 2, 3].map(|place| value(Slot::Local(place), 1, 0)), [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(value(Slot::Local(0), 0, 2), 30.0);
        let constants = Bank::of_constants(&packs, Bank::means(&packs, &[0, 1]));
        assert_eq!(constants.vectors.values, [15.0, 3.5]);
        assert_eq!(constants.rows(Slot::Local(2), 1, 0, None).unwrap(), [1]);
        // Clip `a` has two places; those that `b` has beyond them take the last row.
        let by_place = Bank::of_constants(&packs, Bank::means_by_place(&packs, &[0]));
        assert_eq!(by_place.vectors.values, [10.0, 1.5, 1.5]);
        let row = |place| by_place.rows(Slot::Local(place), 1, 0, None).unwrap();
        assert_eq!([0, 1, 2, 3].map(row), [[1], [2], [2], [2]]);
        assert_eq!(by_place.rows(Slot::Global, 1, 0, None).unwrap(), [0]);
        let noise = Bank::of_noise(&packs, 4);
        assert_eq!(
            (noise.rows(Slot::Global, 0, 1, None).unwrap(), noise.rows(Slot::Local(1), 0, 1, None).unwrap()),
            (vec![1], vec![1])
        );
        assert_eq!(noise.vectors, Bank::of_noise(&packs, 4).vectors);
        assert_ne!(noise.vectors, Bank::of_noise(&packs, 5).vectors);
    }

    #[test]
    fn noise_is_of_the_size_of_features_and_belongs_to_the_clip() {
        let clip =
            |number: usize| PackedClip { clip_id: format!("c{number}"), split: None, group: None, locals: vec![] };
        let packs = |clips: std::ops::Range<usize>| {
            let count = clips.len();
            let global = Array::new([count, 50], vec![-0.3; 50 * count]);
            Packs::new(clips.map(clip).collect(), global, Array::new([0, 50], vec![]), GlobalMode::ClipMean, true)
        };
        let (all, some) = (packs(0..80), packs(40..80));
        let noise = Bank::of_noise(&all, 0).vectors;
        let size = (noise.values.iter().map(|x| x * x).sum::<f32>() / 4000.0).sqrt();
        assert!((size - 0.3).abs() < 0.015, "{size}");
        assert!(noise.values.iter().sum::<f32>().abs() / 4000.0 < 0.02);
        let (mine, theirs) = (noise.row(41), Bank::of_noise(&some, 0).vectors);
        assert!(mine.iter().zip(theirs.row(1)).all(|(a, b)| (a - b).abs() < 1e-6));
        assert_ne!(noise.row(0), noise.row(1));
    }

    #[test]
    fn a_global_of_locals_is_the_mean_of_projections() {
        let packs = packs(GlobalMode::ProjectedLocals);
        let bank = Bank::of_features(&packs);
        assert_eq!(bank.rows(Slot::Global, 0, 0, None).unwrap(), [3, 4]);
        assert!(bank.rows(Slot::Global, 2, 2, None).unwrap_err().to_string().contains("`c`"));
        let prepared =
            [Prepared { ids: vec![0, 0], social: vec![(0, vec![3, 4]), (1, vec![3])], zeroed: vec![], labels: vec![] }];
        let batch = Batch::new(&prepared, 0);
        let device = Device::default();
        let projected = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 6.0], [5.0, 5.0]], &device);
        let social: Vec<f32> = batch.social(projected).into_data().try_into_vec().unwrap();
        assert_eq!(social, [2.0, 4.0, 5.0, 5.0]);
    }

    #[test]
    fn places_are_counted_anew_in_every_utterance() {
        let local = |utterance, word| Local { utterance, word, frames: vec![0], row: 0 };
        let locals = [local(0, 1), local(0, 3), local(2, 0), local(2, 1), local(2, 2)];
        assert_eq!([0, 1, 2, 3, 4].map(|place| place_in_utterance(&locals, place)), [0, 1, 0, 1, 2]);
    }

    fn gemma() -> Gemma {
        let config = serde_json::json!({
            "model_type": "gemma2", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2, "query_pre_attn_scalar": 2,
            "sliding_window": 8, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "rope_theta": 10000.0,
            "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 64,
            "initializer_range": 0.1
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let config = GemmaConfig::read(folder.path()).unwrap();
        Gemma::init(&config, &Streams::new(0, "test"), &Device::default())
    }

    fn host(tensor: Tensor<3>) -> Vec<f32> {
        tensor.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn rows_enter_before_or_after_the_scale() {
        let gemma = gemma();
        let target = |position| Target {
            position,
            id: 5,
            word: None,
            class: Class::Text,
            number: 0,
            true_bits: None,
            floor_bits: None,
            bytes: 1,
        };
        let long = Sequence {
            clip: 0,
            utterance: 0,
            slots: vec![Slot::Bos(2), Slot::Global, Slot::Text(5)],
            targets: vec![target(2)],
            samples: 1,
            until: None,
        };
        let short = Sequence { slots: vec![Slot::Bos(2), Slot::Global], targets: vec![], ..long.clone() };
        let packs = packs(GlobalMode::ClipMean);
        let bank = Bank::of_features(&packs);
        let prepared = prepare(&[long, short], Some(&bank), &[0], &[1], 0).unwrap();
        assert_eq!(by_length(&prepared, 1), [[1], [0]]);
        let batch = Batch::new(&prepared, 0);
        assert_eq!((batch.rows.as_slice(), batch.labels.as_slice()), ([1i64, 1].as_slice(), [(0, 1)].as_slice()));
        let device = gemma.device();
        let social = Tensor::<2>::from_data([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]], &device);
        let text = host(Batch::new(&prepare_text(), 0).inputs(&gemma, None, EmbeddingScale::After));
        let before = host(batch.inputs(&gemma, Some(social.clone()), EmbeddingScale::Before));
        let after = host(batch.inputs(&gemma, Some(social), EmbeddingScale::After));
        assert_eq!((&before[..4], &before[8..12]), (&text[..4], &text[4..8]));
        assert_eq!(
            (&before[4..8], &before[16..20]),
            ([1.0, 2.0, 3.0, 4.0].as_slice(), [5.0, 6.0, 7.0, 8.0].as_slice())
        );
        assert_eq!((&after[4..8], &after[..4]), ([2.0, 4.0, 6.0, 8.0].as_slice(), &text[..4]));
        let gradient = Tensor::<3>::ones([2, 3, 4], &device);
        let pulled = batch.social_gradient(gradient, &gemma, EmbeddingScale::After);
        let pulled: Vec<f32> = pulled.into_data().try_into_vec().unwrap();
        assert_eq!(pulled, [2.0; 8]);
    }

    fn prepare_text() -> [Prepared; 1] {
        [Prepared { ids: vec![2, 5], social: vec![], zeroed: vec![], labels: vec![] }]
    }

    /// Of Gemma 2 2B the width is 2304, whose root is 48 exactly.
    #[test]
    fn a_social_row_enters_the_first_layer_of_gemma_2_2b_as_48_times_itself() {
        let config = GemmaConfig {
            vocabulary: 8,
            hidden: 2304,
            intermediate: 2,
            heads: 1,
            key_value_heads: 1,
            head_dim: 2,
            sliding: GemmaConfig::alternating(1),
            ..GemmaConfig::default()
        };
        let gemma = Gemma::init(&config, &Streams::new(0, "test"), &Device::default());
        let sample = Prepared { ids: vec![2, 0, 5], social: vec![(1, vec![0])], zeroed: vec![], labels: vec![] };
        let row: Vec<f32> = Streams::new(1, "test").named("row").normals(2304, 0.3);
        let social = Tensor::<2>::from_data(TensorData::new(row.clone(), [1, 2304]), &gemma.device());
        let inputs = host(Batch::new(&[sample], 0).inputs(&gemma, Some(social), EmbeddingScale::After));
        assert!(inputs[2304..4608].iter().zip(&row).all(|(entered, given)| *entered == 48.0 * given));
    }

    #[test]
    fn zeroed_places_hold_zeros_with_and_without_social_tokens() {
        let gemma = gemma();
        let text = host(Batch::new(&prepare_text(), 0).inputs(&gemma, None, EmbeddingScale::After));
        let sample = |social: Vec<(usize, Vec<usize>)>| Prepared {
            ids: vec![0, 2, 0, 5],
            social,
            zeroed: vec![2],
            labels: vec![],
        };
        let alone = sample(vec![]);
        let alone = host(Batch::new(&[Prepared { zeroed: vec![0, 2], ..alone }], 0).inputs(
            &gemma,
            None,
            EmbeddingScale::After,
        ));
        assert_eq!((&alone[..4], &alone[8..12]), ([0.0; 4].as_slice(), [0.0; 4].as_slice()));
        assert_eq!((&alone[4..8], &alone[12..]), (&text[..4], &text[4..]));
        for scale in [EmbeddingScale::Before, EmbeddingScale::After] {
            let social = Tensor::<2>::from_data([[1.0, 2.0, 3.0, 4.0]], &gemma.device());
            let both = host(Batch::new(&[sample(vec![(0, vec![0])])], 0).inputs(&gemma, Some(social), scale));
            let factor = if scale == EmbeddingScale::After { 2.0 } else { 1.0 };
            assert_eq!(both[..4], [1.0, 2.0, 3.0, 4.0].map(|value| value * factor));
            assert_eq!((&both[8..12], &both[12..]), ([0.0; 4].as_slice(), &text[4..]), "{scale:?}");
        }
    }

    #[test]
    fn a_causal_global_sees_no_frame_after_the_context() {
        let mut packs = packs(GlobalMode::CausalMean);
        let frames = vec![vec![(0.0, 0), (1.0, 1), (2.0, 2)], vec![(0.5, 3)], vec![]];
        packs.causal = Some(Causal { means: Array::new([4, 1], vec![0.1, 0.2, 0.3, 0.4]), frames });
        let bank = Bank::of_features(&packs);
        let value = |from, until| Ok(bank.vectors.row(bank.rows(Slot::Global, 0, from, until)?[0])[0]);
        let right: Vec<f32> = [0.0, 0.99, 1.0, 1.5, f64::INFINITY].map(|until| value(0, Some(until)).unwrap()).to_vec();
        assert_eq!(right, [0.1, 0.1, 0.2, 0.2, 0.3]);
        assert_eq!(value(1, Some(7.0)).unwrap(), 0.4);
        let error = |from, until| {
            let found: Result<f32> = value(from, until);
            found.unwrap_err().to_string()
        };
        assert!(error(1, Some(0.4)).contains("no frame at or before 0.4 s"), "{}", error(1, Some(0.4)));
        assert!(error(0, None).contains("no time is known"), "{}", error(0, None));
    }
}
