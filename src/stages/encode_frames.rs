//! `encode_frames`: one feature vector per frame.
//!
//! `dinov2` gives the CLS token after the final norm of a DINOv2 vision transformer; `random_vit` the same of one that
//! was never trained (what is left when weights are not loaded: with timm's LayerScale of 1e-5 next to nothing);
//! `oracle` reads the latents that `simulate_clips` wrote and isolates the language side.
//!
//! Images: shorter side to `resize` (Pillow's bicubic), centre crop to `crop`, ImageNet's mean and deviation. Pixel
//! tensors are taken as they are.

use burn::tensor::{DType, Device, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::estimate::{self, Network, Size};
use super::{Context, Estimate, Expected, Inputs, Reference, Result, Stage, StageError, Summary, Upstream};
use crate::models::device;
use crate::models::dinov2::{Dinov2, Dinov2Config, PositionResampling};
use crate::npy::Array;
use crate::social::seen;
use crate::stats::random::Streams;
use crate::vision::features;
use crate::vision::frames::{Manifest, Picture, Reader};
use crate::vision::world;

/// See the module.
pub struct EncodeFrames;

/// What makes the features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A DINOv2 vision transformer with given weights.
    #[default]
    Dinov2,
    /// A vision transformer with random weights.
    RandomVit,
    /// The latents of a simulated world through a fixed random map, with a little noise.
    Oracle,
}

/// What the encoder is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// The frame.
    #[default]
    Frame,
    /// A picture of the frame's size in one colour, ImageNet's mean (a control).
    Blank,
}

/// Settings of `encode_frames`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Frames with their manifest.
    #[schemars(extend("x-accepts" = ["frames"]))]
    pub frames: Reference,
    /// What makes the features.
    #[serde(default)]
    pub method: Method,
    /// For `dinov2`: the model; `model:vision` when not set. Where its folder has `seen_clips.csv`, the record goes with
    /// the features.
    #[serde(default)]
    #[schemars(extend("x-accepts" = ["encoder"]))]
    pub encoder: Option<Reference>,
    /// How positions are resampled to image sizes other than the model's own.
    #[serde(default)]
    pub position_resampling: PositionResampling,
    /// Pixels of the shorter side after resizing; the side that the model was made for (DINOv2: 518) when not set.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub resize: Option<usize>,
    /// Side of the centre crop in pixels, a multiple of the patch side; as `resize` when not set.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub crop: Option<usize>,
    /// Bring every vector to length 1 (not for `oracle`).
    #[serde(default = "yes")]
    pub l2_normalize: bool,
    /// Images at a time.
    #[serde(default = "batch")]
    #[schemars(range(min = 1), extend("x-key" = false))]
    pub batch: usize,
    /// Seed of the oracle's map and noise, or of the random weights.
    #[serde(default)]
    pub encoder_seed: u64,
    /// For `random_vit`: width.
    #[serde(default = "vit_hidden")]
    #[schemars(range(min = 1))]
    pub vit_hidden: usize,
    /// For `random_vit`: number of blocks.
    #[serde(default = "vit_layers")]
    #[schemars(range(min = 1))]
    pub vit_layers: usize,
    /// For `random_vit`: attention heads.
    #[serde(default = "vit_layers")]
    #[schemars(range(min = 1))]
    pub vit_heads: usize,
    /// For `random_vit`: side of a patch in pixels.
    #[serde(default = "vit_patch")]
    #[schemars(range(min = 1))]
    pub vit_patch: usize,
    /// For `random_vit`: side of the image in pixels.
    #[serde(default = "vit_image")]
    #[schemars(range(min = 1))]
    pub vit_image: usize,
    /// For `random_vit`: initial LayerScale. timm has 1e-5, which gives nearly the same vector for every image.
    #[serde(default = "vit_layer_scale")]
    #[schemars(range(min = 0.0))]
    pub vit_layer_scale: f64,
    /// What the encoder is shown. With `blank` all features are the same, which `allow_constant_features` must allow.
    #[serde(default)]
    pub shown: Shown,
    /// Accept features that hardly differ between clips.
    #[serde(default)]
    pub allow_constant_features: bool,
}

fn yes() -> bool {
    true
}
fn batch() -> usize {
    16
}
fn vit_hidden() -> usize {
    64
}
fn vit_layers() -> usize {
    4
}
fn vit_patch() -> usize {
    14
}
fn vit_image() -> usize {
    56
}
fn vit_layer_scale() -> f64 {
    1.0
}

impl Config {
    fn shape(&self) -> Dinov2Config {
        Dinov2Config {
            hidden: self.vit_hidden,
            layers: self.vit_layers,
            heads: self.vit_heads,
            intermediate: 4 * self.vit_hidden,
            patch: self.vit_patch,
            image: self.vit_image,
            layer_scale: self.vit_layer_scale,
            ..Dinov2Config::default()
        }
    }
}

impl Stage for EncodeFrames {
    const KIND: &'static str = "encode_frames";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "Turns every frame into a feature vector";
    const GIVES: &'static [&'static str] = &["features"];
    const ON_DEVICE: bool = true;
    type Config = Config;

    fn normalise(config: &mut Config, _upstream: &Upstream) {
        match config.method {
            Method::Dinov2 => {
                config.encoder.get_or_insert_with(|| Reference("model:vision".into()));
                config.encoder_seed = 0;
            }
            Method::RandomVit => config.encoder = None,
            Method::Oracle => {
                config.encoder = None;
                config.position_resampling = PositionResampling::default();
                (config.resize, config.crop) = (None, None);
                config.l2_normalize = yes();
                config.shown = Shown::Frame;
                config.batch = batch();
            }
        }
        if config.method != Method::RandomVit {
            (config.vit_hidden, config.vit_layers, config.vit_heads) = (vit_hidden(), vit_layers(), vit_layers());
            (config.vit_patch, config.vit_image) = (vit_patch(), vit_image());
            config.vit_layer_scale = vit_layer_scale();
        }
        if config.crop == config.resize {
            config.crop = None;
        }
    }

    fn estimate(config: &Config, inputs: &Expected) -> Estimate {
        let frames = inputs.of("frames").frames;
        let network = match config.method {
            Method::Oracle => {
                let size = Size { frames, width: Some(world::oracle::DIMENSIONS as u64), ..Size::default() };
                return Estimate { items: frames, size, ..Estimate::default() };
            }
            Method::RandomVit => Some(Network::encoder(&config.shape())),
            Method::Dinov2 => inputs.of("encoder").network,
        };
        let side = config.crop.or(config.resize).map(|side| side as u64);
        match network {
            Some(network) => estimate::images(&network, frames, side, config.batch as u64),
            None => Estimate { items: frames, size: Size { frames, ..Size::default() }, ..Estimate::default() },
        }
    }

    fn run(config: &Config, inputs: &Inputs, context: &Context) -> Result<Summary> {
        let manifest = Manifest::load(&inputs.get("frames")?.path)?;
        let features = match config.method {
            Method::Oracle => {
                let frames: Vec<(String, f64)> =
                    manifest.frames.iter().map(|frame| (frame.clip_id.clone(), frame.t_sec)).collect();
                let values = world::oracle_features(manifest.folder(), &frames, config.encoder_seed)?;
                Array::new([frames.len(), values.len() / frames.len()], values)
            }
            Method::Dinov2 => {
                let device = device::parse(context.device())?;
                let input = inputs.get("encoder")?;
                let what = format!("encoder {} {:?}", context.device(), config.position_resampling);
                let load = || Ok(Dinov2::load(&input.path, &device, config.position_resampling)?);
                let model = context.models().get(&input.digest, &what, load)?;
                encode(config, &manifest, &model, &device, context)?
            }
            Method::RandomVit => {
                let (shape, device) = (config.shape(), device::parse(context.device())?);
                if shape.hidden % shape.heads != 0 || shape.image % shape.patch != 0 {
                    return Err(StageError::hint(
                        format!(
                            "no transformer has width {} with {} heads, or an image of {} in patches of {}",
                            shape.hidden, shape.heads, shape.image, shape.patch
                        ),
                        "make `vit_hidden` a multiple of `vit_heads`, and `vit_image` one of `vit_patch`",
                    ));
                }
                let streams = Streams::new(config.encoder_seed, Self::KIND);
                let model = Dinov2::init(&shape, &streams, config.position_resampling, &device);
                encode(config, &manifest, &model, &device, context)?
            }
        };
        let spread = features::spread_between_clips(&manifest, &features);
        features::check_spread(spread, config.allow_constant_features)?;
        let description = json!({ "method": config.method, "l2_normalize": config.l2_normalize });
        features::write(context.folder(), &manifest, &features, description)?;
        let mut summary = Summary::new();
        summary.insert("frames".into(), manifest.frames.len().into());
        summary.insert("clips".into(), manifest.clips().len().into());
        summary.insert("dim".into(), features.shape[1].into());
        summary.insert("spread".into(), spread.into());
        if let Some(encoder) = inputs.optional("encoder")
            && let Some(seen) = seen::pass_on(&encoder.path, context.folder())?
        {
            let clips = manifest.clips().into_iter().map(|clip| manifest.frames[clip.start].clip_id.as_str());
            summary.insert("clips_seen_by_encoder".into(), seen.count(clips).into());
        }
        Ok(summary)
    }
}

/// The CLS token of every frame, `[frames, hidden]`.
fn encode(
    config: &Config,
    manifest: &Manifest,
    model: &Dinov2,
    device: &Device,
    context: &Context,
) -> Result<Array<f32>> {
    let resize = config.resize.unwrap_or(model.config().image);
    let crop = config.crop.unwrap_or(resize);
    let total = manifest.frames.len();
    let mut reader = Reader::new(manifest);
    let mut values = Vec::with_capacity(total * model.config().hidden);
    // Images of one size in a row make a batch.
    let mut waiting: Vec<f32> = Vec::new();
    let (mut size, mut count) = ((0, 0), 0);
    let mut flush = |waiting: &mut Vec<f32>, (height, width): (usize, usize), count: &mut usize| -> Result<()> {
        if *count > 0 {
            let data = TensorData::new(std::mem::take(waiting), [*count, 3, height, width]);
            let cls = model.cls(Tensor::<4>::from_data(data, (device, DType::F32)));
            let cls = cls.into_data().convert::<f32>().try_into_vec::<f32>();
            values.extend(cls.map_err(|error| StageError::new(format!("features cannot be read back: {error:?}")))?);
            *count = 0;
        }
        Ok(())
    };
    for index in 0..total {
        let (height, width, pixels) = match reader.read(index)? {
            Picture::Pixels { height, width, values } => (height, width, values),
            Picture::Image(image) => (crop, crop, image.resize_shorter(resize)?.centre_crop(crop)?.normalised()),
        };
        if !model.fits(height, width) {
            return Err(StageError::hint(
                format!("an image of {width}x{height} is no whole number of patches of {}", model.config().patch),
                "set `crop` (or `resize`) to a multiple of the patch side",
            ));
        }
        if (height, width) != size || count == config.batch {
            flush(&mut waiting, size, &mut count)?;
            context.progress(index as u64, total as u64, "frame")?;
            size = (height, width);
        }
        match config.shown {
            Shown::Frame => waiting.extend(pixels),
            // Pixels are normalised: ImageNet's mean colour is 0.
            Shown::Blank => waiting.resize(waiting.len() + pixels.len(), 0.0),
        }
        count += 1;
    }
    flush(&mut waiting, size, &mut count)?;
    context.progress(total as u64, total as u64, "frame")?;
    let hidden = model.config().hidden;
    if let Some(place) = values.iter().position(|value| !value.is_finite()) {
        let frame = &manifest.frames[place / hidden];
        return Err(StageError::hint(
            format!("the encoder gives no finite numbers for `{}` of clip `{}`", frame.path, frame.clip_id),
            "check the encoder's weights and the picture",
        ));
    }
    if config.l2_normalize {
        for row in values.chunks_exact_mut(hidden) {
            let norm = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt().max(1e-12);
            row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
        }
    }
    Ok(Array::new([total, hidden], values))
}
