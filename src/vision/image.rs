//! From an image file to what a vision encoder reads: decoding, resizing, cropping, normalising.
//!
//! Resizing is Pillow's 8-bit bicubic, value for value (`libImaging/Resample.c`: a = −0.5, support scaled when the image
//! shrinks, coefficients in 22-bit fixed point, u8 again after the horizontal pass), since published features were made
//! with it. PNG decodes exactly; JPEG decoders differ by a few grey values (measured in the tests below).

use std::path::Path;

use rayon::prelude::*;

use crate::stages::{Result, StageError};

/// Mean of ImageNet's red, green and blue, of values in 0..=1 (timm and Hugging Face use these for DINOv2).
pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Standard deviation of ImageNet's red, green and blue.
pub const IMAGENET_DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// The most pixels that a byte of a file can stand for: deflate makes 1,032 bytes of one, and a byte has eight pixels of
/// one bit. A header that claims more is refused before memory is taken for it.
const PIXELS_PER_BYTE: u64 = 8 * 1032;

/// The longest side that resizing makes, in pixels; the shorter one of a strip sets what the longer one becomes.
const LONGEST_SIDE: usize = 1 << 16;

/// An image of 8-bit red, green and blue, rows from the top, `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height * width * 3` values.
    pub values: Vec<u8>,
}

impl Rgb {
    /// `values` must have `height * width * 3` elements.
    pub fn new(width: usize, height: usize, values: Vec<u8>) -> Self {
        assert_eq!(values.len(), width * height * 3, "{width}x{height} does not fit the values");
        Self { width, height, values }
    }

    /// Reads a PNG or JPEG file; the format is told from the content. Transparency is dropped, grey becomes RGB.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(StageError::io(path))?;
        let refused = |reason: String| {
            StageError::hint(
                format!("`{}` cannot be read as an image: {reason}", path.display()),
                "frames are PNG or JPEG files",
            )
        };
        let format = image::guess_format(&bytes).map_err(|error| refused(error.to_string()))?;
        let reader = || image::ImageReader::with_format(std::io::Cursor::new(&bytes), format);
        let (width, height) = reader().into_dimensions().map_err(|error| refused(error.to_string()))?;
        if u64::from(width) * u64::from(height) > bytes.len() as u64 * PIXELS_PER_BYTE {
            return Err(refused(format!("{} bytes cannot hold {width}x{height} pixels", bytes.len())));
        }
        let decoded = reader().decode().map_err(|error| refused(error.to_string()))?;
        let pixels = decoded.into_rgb8();
        Ok(Self::new(pixels.width() as usize, pixels.height() as usize, pixels.into_raw()))
    }

    /// Writes a PNG file.
    pub fn save_png(&self, path: &Path) -> Result<()> {
        let (width, height) = (self.width as u32, self.height as u32);
        image::save_buffer_with_format(
            path,
            &self.values,
            width,
            height,
            image::ExtendedColorType::Rgb8,
            image::ImageFormat::Png,
        )
        .map_err(|error| StageError::new(format!("`{}` cannot be written: {error}", path.display())))
    }

    /// Pillow's `resize((width, height), BICUBIC)`, exactly.
    pub fn resize(&self, width: usize, height: usize) -> Self {
        let mut image = if width == self.width { self.clone() } else { self.resize_horizontally(width) };
        if height != image.height {
            image = image.resize_vertically(height);
        }
        image
    }

    /// Resizes so that the shorter side has `short` pixels, the longer one rounded down (torchvision's `Resize`).
    /// An error for a strip whose longer side would become longer than any picture's.
    pub fn resize_shorter(&self, short: usize) -> Result<Self> {
        let (width, height) = shorter_side(self.width, self.height, short);
        if width.max(height) > LONGEST_SIDE {
            return Err(StageError::hint(
                format!("an image of {}x{} would become one of {width}x{height}", self.width, self.height),
                "it is too narrow for a picture; crop it",
            ));
        }
        Ok(self.resize(width, height))
    }

    /// The middle `side` × `side` pixels; odd margins are halved with ties to even (torchvision's `CenterCrop`).
    /// An image that is too small is an error.
    pub fn centre_crop(&self, side: usize) -> Result<Self> {
        if self.width < side || self.height < side {
            return Err(StageError::hint(
                format!("an image of {}x{} is too small for a crop of {side}", self.width, self.height),
                "set `resize` to at least `crop`",
            ));
        }
        let offset = |length: usize| ((length - side) as f64 / 2.0).round_ties_even() as usize;
        let (left, top) = (offset(self.width), offset(self.height));
        let mut values = Vec::with_capacity(side * side * 3);
        for row in top..top + side {
            let start = (row * self.width + left) * 3;
            values.extend_from_slice(&self.values[start..start + side * 3]);
        }
        Ok(Self::new(side, side, values))
    }

    /// Planes `[3, height, width]` of (value / 255 − mean) / deviation, with ImageNet's figures, in f32.
    pub fn normalised(&self) -> Vec<f32> {
        let mut planes = Vec::with_capacity(self.values.len());
        for channel in 0..3 {
            let (mean, deviation) = (IMAGENET_MEAN[channel], IMAGENET_DEVIATION[channel]);
            let plane = self.values[channel..].iter().step_by(3);
            planes.extend(plane.map(|&value| (f32::from(value) / 255.0 - mean) / deviation));
        }
        planes
    }

    fn resize_horizontally(&self, width: usize) -> Self {
        let windows = windows(self.width, width);
        let mut values = vec![0; width * self.height * 3];
        values.par_chunks_mut(width * 3).enumerate().for_each(|(row, out)| {
            let line = &self.values[row * self.width * 3..(row + 1) * self.width * 3];
            for (pixel, window) in out.chunks_exact_mut(3).zip(&windows) {
                let mut sums = [ROUNDING; 3];
                for (source, &weight) in line[window.first * 3..].chunks_exact(3).zip(&window.weights) {
                    for channel in 0..3 {
                        sums[channel] += i32::from(source[channel]) * weight;
                    }
                }
                pixel.copy_from_slice(&sums.map(clip));
            }
        });
        Self::new(width, self.height, values)
    }

    fn resize_vertically(&self, height: usize) -> Self {
        let stride = self.width * 3;
        let windows = windows(self.height, height);
        let mut values = vec![0; stride * height];
        values.par_chunks_mut(stride).zip(&windows).for_each(|(out, window)| {
            let mut sums = vec![ROUNDING; stride];
            for (row, &weight) in self.values[window.first * stride..].chunks_exact(stride).zip(&window.weights) {
                for (sum, &value) in sums.iter_mut().zip(row) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (value, sum) in out.iter_mut().zip(sums) {
                *value = clip(sum);
            }
        });
        Self::new(self.width, height, values)
    }
}

/// Width and height after bringing the shorter side to `short`; the longer side is rounded down, at least 1.
pub fn shorter_side(width: usize, height: usize, short: usize) -> (usize, usize) {
    if width <= height { (short, (short * height / width).max(1)) } else { ((short * width / height).max(1), short) }
}

/// Fractional bits of the coefficients: 8 bits of value, 2 of headroom for overshoot, the rest of 32.
const PRECISION: u32 = 22;
const ROUNDING: i32 = 1 << (PRECISION - 1);

fn clip(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The source pixels that make one target pixel: from `first` on, with fixed-point weights.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// Keys' cubic with a = −0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn windows(from: usize, to: usize) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let support = 2.0 * stretch;
    (0..to)
        .map(|place| {
            let centre = (place as f64 + 0.5) * scale;
            // Truncation towards zero, then the edge: as the C code does.
            let first = ((centre - support + 0.5) as i64).max(0) as usize;
            let end = ((centre + support + 0.5) as i64).min(from as i64) as usize;
            let weights: Vec<f64> =
                (first..end).map(|source| cubic((source as f64 - centre + 0.5) * (1.0 / stretch))).collect();
            let total: f64 = weights.iter().sum();
            let fixed = weights.iter().map(|weight| {
                let scaled = weight / total * f64::from(1 << PRECISION);
                (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            });
            Window { first, weights: fixed.collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/image").join(name)
    }

    /// Results of Pillow 13.0.0, see `tests/fixtures/SPEC.md`.
    fn reference(name: &str) -> (Vec<usize>, Vec<u8>) {
        let bytes = std::fs::read(fixture("reference.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        (tensor.shape().to_vec(), tensor.data().to_vec())
    }

    #[test]
    fn resizing_is_pillows_to_the_last_value() {
        let image = Rgb::open(&fixture("input.png")).unwrap();
        assert_eq!((image.width, image.height), (170, 130));
        let small = image.resize(64, 48);
        assert_eq!((vec![48, 64, 3], small.values), reference("resize_64x48_bicubic"));
        let cropped = image.resize_shorter(112).unwrap().centre_crop(98).unwrap();
        assert_eq!((vec![98, 98, 3], cropped.values), reference("short112_centercrop98_u8"));
    }

    #[test]
    fn normalised_planes_are_those_of_imagenet() {
        let image = Rgb::open(&fixture("input.png")).unwrap().resize_shorter(112).unwrap().centre_crop(98).unwrap();
        let planes = image.normalised();
        let (shape, bytes) = reference("normalised_chw_first16rows");
        assert_eq!(shape, [3, 16, 98]);
        let mut worst = 0f32;
        for (place, bytes) in bytes.chunks_exact(4).enumerate() {
            let expected = f32::from_le_bytes(bytes.try_into().unwrap());
            let (channel, rest) = (place / (16 * 98), place % (16 * 98));
            worst = worst.max((planes[channel * 98 * 98 + rest] - expected).abs());
        }
        assert!(worst <= 1e-6, "largest difference {worst}");
    }

    #[test]
    fn jpeg_decoding_is_within_the_decoders_tolerance() {
        // Against libjpeg this decoder is off by 4 of 255 at most and 0.15 on average for a photograph; the fixture is
        // pixel noise with subsampled colour, the worst case: 7 and 0.38 measured.
        let image = Rgb::open(&fixture("input.jpg")).unwrap();
        let (shape, expected) = reference("jpeg_decoded_rgb_u8");
        assert_eq!(shape, [image.height, image.width, 3]);
        let differences = image.values.iter().zip(&expected).map(|(a, b)| u32::from(a.abs_diff(*b)));
        let (worst, total) = differences.fold((0, 0), |(worst, total), d| (d.max(worst), total + d));
        let mean = f64::from(total) / expected.len() as f64;
        assert!(worst <= 8 && mean <= 0.4, "largest {worst}, mean {mean}");
    }

    #[test]
    fn enlarging_keeps_flat_images_flat_and_png_comes_back() {
        let flat = Rgb::new(5, 7, [10u8, 200, 255].repeat(35));
        let large = flat.resize(23, 9);
        assert!(large.values.chunks_exact(3).all(|pixel| pixel == [10, 200, 255]));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        large.save_png(&path).unwrap();
        assert_eq!(Rgb::open(&path).unwrap(), large);
    }

    #[test]
    fn sizes_that_the_file_cannot_hold_are_refused_before_memory_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        Rgb::new(1, 1, vec![0; 3]).save_png(&path).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        // The header's width and height, and its checksum.
        bytes[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
        let sum = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&sum.to_be_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let message = Rgb::open(&path).unwrap_err().to_string();
        assert!(message.contains("cannot hold 16384x16384 pixels"), "{message}");
        // A white image of one bit per pixel is as small as files get.
        let white = image::GrayImage::from_pixel(2000, 2000, image::Luma([255]));
        white.save(&path).unwrap();
        assert_eq!(Rgb::open(&path).unwrap().width, 2000);
        let strip = Rgb::new(1, 3000, vec![0; 9000]);
        let message = strip.resize_shorter(224).unwrap_err().to_string();
        assert!(message.contains("1x3000 would become one of 224x672000"), "{message}");
    }

    /// The checksum of PNG chunks, bit by bit (PNG specification, annex D).
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |sum, &byte| {
            (0..8).fold(sum ^ u32::from(byte), |sum, _| if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 })
        })
    }

    #[test]
    fn a_crop_that_does_not_fit_says_what_to_set() {
        let message = Rgb::new(4, 4, vec![0; 48]).centre_crop(5).unwrap_err().to_string();
        assert!(message.contains("4x4") && message.contains("hint: set `resize`"), "{message}");
    }
}
