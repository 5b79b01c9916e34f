//! The frame manifest: which pictures a clip has, and when each is shown.
//!
//! `manifest.csv` has the columns `split,clip_id,frame_path,t_sec` and optionally `group`. `t_sec` is in seconds from the
//! start of the clip. `frame_path` is relative to the manifest's folder, or to the nearest folder above it in which the
//! first picture is there, and has one of three forms:
//! `a/frame_000001.png` (an image file), `frames.npy#7` (image 7 of a packed u8 array `[n, height, width, 3]`) and
//! `pixels.safetensors#a.pixel_values#7` (item 7 of a tensor `[n, 3, height, width]` that is normalised already).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::image::Rgb;
use crate::npy;
use crate::stages::{Result, StageError};

/// Name of the manifest inside a folder of frames.
pub const FILE: &str = "manifest.csv";

/// How many mistakes of one manifest are told at once.
const TOLD: usize = 8;

/// One line of a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// `train`, `test`, …; empty when the clips are not split yet.
    pub split: String,
    /// The clip that it belongs to.
    pub clip_id: String,
    /// Where the picture is, as written, see the module.
    pub path: String,
    /// Seconds from the start of the clip.
    pub t_sec: f64,
    /// What clips may not be independent over: a session, a source video.
    pub group: Option<String>,
}

/// A manifest whose lines were checked.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The folder that paths are relative to.
    base: PathBuf,
    /// Frames of a clip follow each other, in order of time.
    pub frames: Vec<Frame>,
}

/// A picture as an encoder takes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Picture {
    /// An image, to be resized, cropped and normalised.
    Image(Rgb),
    /// Planes `[3, height, width]` that are normalised already.
    Pixels { height: usize, width: usize, values: Vec<f32> },
}

impl Manifest {
    /// Reads and checks a manifest (`path` is the file or its folder): columns, times, order, files. All mistakes are
    /// told at once, with their lines. Item numbers (`#7`) are checked when the picture is read.
    pub fn load(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
        let broken = |error: &csv::Error| {
            StageError::hint(
                format!("`{}`: {error}", file.display()),
                "a manifest has the columns `split,clip_id,frame_path,t_sec` and optionally `group`",
            )
        };
        let mut reader = csv::Reader::from_path(&file).map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(source) => StageError::Io { path: file.clone(), source },
            kind => StageError::new(format!("`{}`: {kind:?}", file.display())),
        })?;
        let header = reader.headers().map_err(|error| broken(&error))?.clone();
        let find = |name: &str| header.iter().position(|column| column.trim() == name);
        let need = |name: &str| {
            find(name).ok_or_else(|| {
                StageError::hint(
                    format!("`{}` has no column `{name}`", file.display()),
                    "a manifest has the columns `split,clip_id,frame_path,t_sec` and optionally `group`",
                )
            })
        };
        let (split, clip_id, frame_path, t_sec) =
            (need("split")?, need("clip_id")?, need("frame_path")?, need("t_sec")?);
        let group = find("group");

        let mut manifest = Self { base: PathBuf::new(), frames: Vec::new() };
        let mut mistakes = Vec::new();
        let mut check = Checks::default();
        for row in reader.records() {
            let row = row.map_err(|error| broken(&error))?;
            let line = row.position().map_or(0, csv::Position::line);
            let mut mistake = |text: String| mistakes.push(format!("{}:{line}: {text}", file.display()));
            let time: f64 = match row[t_sec].trim().parse() {
                Ok(time) if f64::is_finite(time) => time,
                _ => {
                    mistake(format!("`t_sec` is `{}`, not a number of seconds", &row[t_sec]));
                    continue;
                }
            };
            let frame = Frame {
                split: row[split].trim().to_owned(),
                clip_id: row[clip_id].trim().to_owned(),
                path: row[frame_path].trim().to_owned(),
                t_sec: time,
                group: group.map(|column| row[column].trim()).filter(|text| !text.is_empty()).map(str::to_owned),
            };
            if manifest.frames.is_empty() {
                manifest.base = base(&file, &frame.path);
            }
            check.line(&manifest, &frame, line, &mut mistake);
            manifest.frames.push(frame);
        }
        if mistakes.is_empty() && manifest.frames.is_empty() {
            mistakes.push(format!("{}: no frames are listed", file.display()));
        }
        if mistakes.is_empty() {
            return Ok(manifest);
        }
        let more = mistakes.len().saturating_sub(TOLD);
        mistakes.truncate(TOLD);
        if more > 0 {
            mistakes.push(format!("and {more} more"));
        }
        Err(StageError::hint(
            mistakes.join("\n"),
            "list the frames of a clip one after another in order of time, with paths relative to the manifest",
        ))
    }

    /// Writes `manifest.csv` into `folder`. The column `group` is there when any frame has one.
    pub fn write(folder: &Path, frames: &[Frame]) -> Result<()> {
        let path = folder.join(FILE);
        let failed = |error: csv::Error| StageError::new(format!("`{}`: {error}", path.display()));
        let mut writer = csv::Writer::from_path(&path).map_err(failed)?;
        let groups = frames.iter().any(|frame| frame.group.is_some());
        let mut header = vec!["split", "clip_id", "frame_path", "t_sec"];
        header.extend(groups.then_some("group"));
        writer.write_record(header).map_err(failed)?;
        for frame in frames {
            let time = seconds(frame.t_sec);
            let mut record = vec![frame.split.as_str(), &frame.clip_id, &frame.path, &time];
            record.extend(groups.then_some(frame.group.as_deref().unwrap_or_default()));
            writer.write_record(record).map_err(failed)?;
        }
        writer.flush().map_err(StageError::io(&path))
    }

    /// Frames that are known already, with paths relative to `base`; nothing is checked.
    pub(crate) fn of(base: PathBuf, frames: Vec<Frame>) -> Self {
        Self { base, frames }
    }

    /// The folder that `frame_path` is relative to.
    pub fn folder(&self) -> &Path {
        &self.base
    }

    /// Every file that the manifest refers to: the content that its identity must cover.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        self.frames.iter().map(|frame| self.folder().join(Place::of(&frame.path).file())).collect()
    }

    /// The clips in order: each one's range of `frames`.
    pub fn clips(&self) -> Vec<Range<usize>> {
        let mut clips: Vec<Range<usize>> = Vec::new();
        for (place, frame) in self.frames.iter().enumerate() {
            match clips.last_mut() {
                Some(clip) if self.frames[clip.start].clip_id == frame.clip_id => clip.end = place + 1,
                _ => clips.push(place..place + 1),
            }
        }
        clips
    }
}

/// The folder that the paths of a manifest are relative to: the manifest's own or, of the folders above it, the first in
/// which the picture that is listed first is there (manifests may be written relative to where a project lies).
pub fn base(manifest: &Path, first: &str) -> PathBuf {
    let own = manifest.parent().unwrap_or(Path::new(""));
    let file = Place::of(first).file();
    let is_there = |folder: &&Path| folder.join(file).is_file();
    // The way up from a relative path ends at the working folder.
    own.ancestors().find(is_there).unwrap_or(own).to_owned()
}

/// Seconds as they stand in files: up to 6 decimals.
pub fn seconds(time: f64) -> String {
    ((time * 1e6).round() / 1e6).to_string()
}

/// What is remembered from line to line.
#[derive(Default)]
struct Checks {
    finished: HashSet<String>,
    pictures: HashMap<(String, String), u64>,
    present: HashSet<String>,
}

impl Checks {
    fn line(&mut self, manifest: &Manifest, frame: &Frame, line: u64, mistake: &mut impl FnMut(String)) {
        let Frame { clip_id, path, t_sec, .. } = frame;
        if clip_id.is_empty() {
            mistake("the clip id is empty".into());
        }
        if *t_sec < 0.0 {
            mistake(format!("`t_sec` is {t_sec}, before the start of the clip"));
        }
        match manifest.frames.last() {
            Some(last) if last.clip_id == *clip_id => {
                if last.t_sec == *t_sec {
                    mistake(format!("clip `{clip_id}` has two frames at {t_sec} s"));
                } else if last.t_sec > *t_sec {
                    mistake(format!("clip `{clip_id}` goes back from {} s to {t_sec} s", last.t_sec));
                }
                if last.split != frame.split || last.group != frame.group {
                    mistake(format!("clip `{clip_id}` changes its split or group"));
                }
            }
            Some(last) => {
                self.finished.insert(last.clip_id.clone());
                if self.finished.contains(clip_id) {
                    mistake(format!("clip `{clip_id}` goes on here after another clip began"));
                }
            }
            None => {}
        }
        if let Some(first) = self.pictures.insert((clip_id.clone(), path.clone()), line) {
            mistake(format!("clip `{clip_id}` lists `{path}` twice, first in line {first}"));
        }
        match Place::parse(path) {
            Err(reason) => mistake(reason),
            Ok(place) => {
                let file = place.file();
                if !self.present.contains(file) {
                    if manifest.folder().join(file).is_file() {
                        self.present.insert(file.to_owned());
                    } else {
                        mistake(format!("there is no file `{}`", manifest.folder().join(file).display()));
                    }
                }
            }
        }
    }
}

/// A frame path taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place<'a> {
    File(&'a str),
    Packed(&'a str, usize),
    Tensor(&'a str, &'a str, usize),
}

impl<'a> Place<'a> {
    fn parse(path: &'a str) -> std::result::Result<Self, String> {
        let number = |text: &str| {
            text.parse::<usize>().map_err(|_| format!("`{path}` ends in `#{text}`, which is no item number from 0 on"))
        };
        if path.is_empty() {
            Err("the frame path is empty".into())
        } else if let Some((file, item)) = path.split_once(".npy#") {
            Ok(Self::Packed(&path[..file.len() + 4], number(item)?))
        } else if let Some((file, rest)) = path.split_once(".safetensors#") {
            let (tensor, item) =
                rest.rsplit_once('#').ok_or_else(|| format!("`{path}` names no item: `FILE#TENSOR#NUMBER`"))?;
            Ok(Self::Tensor(&path[..file.len() + 12], tensor, number(item)?))
        } else {
            Ok(Self::File(path))
        }
    }

    /// For paths that were checked when the manifest was read.
    fn of(path: &'a str) -> Self {
        Self::parse(path).unwrap_or(Self::File(path))
    }

    fn file(self) -> &'a str {
        match self {
            Self::File(file) | Self::Packed(file, _) | Self::Tensor(file, ..) => file,
        }
    }
}

/// Reads the pictures of a manifest. Keeps the last packed file in memory, so read in the manifest's order.
pub struct Reader<'a> {
    manifest: &'a Manifest,
    packed: Option<(PathBuf, npy::Array<u8>)>,
    tensors: Option<(PathBuf, Vec<u8>)>,
}

impl<'a> Reader<'a> {
    /// A reader of this manifest's pictures.
    pub fn new(manifest: &'a Manifest) -> Self {
        Self { manifest, packed: None, tensors: None }
    }

    /// The picture of frame `index` of the manifest.
    pub fn read(&mut self, index: usize) -> Result<Picture> {
        let frame = &self.manifest.frames[index];
        match Place::of(&frame.path) {
            Place::File(file) => Ok(Picture::Image(Rgb::open(&self.manifest.folder().join(file))?)),
            Place::Packed(file, item) => self.packed(&self.manifest.folder().join(file), item),
            Place::Tensor(file, tensor, item) => self.tensor(&self.manifest.folder().join(file), tensor, item),
        }
    }

    fn packed(&mut self, file: &Path, item: usize) -> Result<Picture> {
        if self.packed.as_ref().is_none_or(|(known, _)| known != file) {
            self.packed = Some((file.to_owned(), npy::read(file)?));
        }
        let Some((_, array)) = &self.packed else { unreachable!("it was just read") };
        match *array.shape {
            [count, height, width, 3] if item < count && height > 0 && width > 0 => {
                Ok(Picture::Image(Rgb::new(width, height, array.row(item).to_vec())))
            }
            ref shape => Err(StageError::hint(
                format!("`{}` has shape {shape:?} and no image {item}", file.display()),
                "packed frames are a u8 array `[n, height, width, 3]`, counted from 0",
            )),
        }
    }

    fn tensor(&mut self, file: &Path, name: &str, item: usize) -> Result<Picture> {
        if self.tensors.as_ref().is_none_or(|(known, _)| known != file) {
            self.tensors = Some((file.to_owned(), std::fs::read(file).map_err(StageError::io(file))?));
        }
        let Some((_, bytes)) = &self.tensors else { unreachable!("it was just read") };
        let bad = |reason: String| {
            StageError::hint(
                format!("`{}`, tensor `{name}`: {reason}", file.display()),
                "pixel tensors are f32, f16 or bf16 `[n, 3, height, width]`, counted from 0",
            )
        };
        let tensors = safetensors::SafeTensors::deserialize(bytes).map_err(|error| bad(error.to_string()))?;
        let tensor = tensors.tensor(name).map_err(|error| bad(error.to_string()))?;
        let &[count, 3, height, width] = tensor.shape() else {
            return Err(bad(format!("its shape is {:?}", tensor.shape())));
        };
        if height == 0 || width == 0 {
            return Err(bad(format!("its shape {:?} has no pixels", tensor.shape())));
        }
        if item >= count {
            return Err(bad(format!("it has {count} items and no item {item}")));
        }
        let size = tensor.data().len() / count;
        let data = &tensor.data()[item * size..(item + 1) * size];
        let pairs = data.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
        let values = match tensor.dtype() {
            safetensors::Dtype::F32 => {
                data.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]])).collect()
            }
            safetensors::Dtype::F16 => pairs.map(|pair| half::f16::from_le_bytes(pair).to_f32()).collect(),
            safetensors::Dtype::BF16 => pairs.map(|pair| half::bf16::from_le_bytes(pair).to_f32()).collect(),
            other => return Err(bad(format!("its type is {other:?}"))),
        };
        Ok(Picture::Pixels { height, width, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(manifest: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["0.png", "1.png", "2.png"] {
            Rgb::new(2, 1, vec![1, 2, 3, 4, 5, 6]).save_png(&folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join(FILE), manifest).unwrap();
        folder
    }

    fn message(manifest: &str) -> String {
        Manifest::load(folder_with(manifest).path()).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_comes_back_as_written() {
        let folder = folder_with("");
        let frame = |clip: &str, path: &str, t_sec| Frame {
            split: "train".into(),
            clip_id: clip.into(),
            path: path.into(),
            t_sec,
            group: Some("video, one".into()),
        };
        let frames = [frame("a", "0.png", 0.0), frame("a", "1.png", 1.0 / 3.0), frame("b", "0.png", 0.0)];
        Manifest::write(folder.path(), &frames).unwrap();
        let manifest = Manifest::load(folder.path()).unwrap();
        assert_eq!(manifest.frames[1].t_sec, 0.333333);
        assert_eq!(manifest.frames[2], frames[2]);
        assert_eq!(manifest.clips(), [0..2, 2..3]);
        assert_eq!(manifest.files().len(), 2);
        let picture = Reader::new(&manifest).read(0).unwrap();
        assert_eq!(picture, Picture::Image(Rgb::new(2, 1, vec![1, 2, 3, 4, 5, 6])));
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let text = message(
            "split,clip_id,frame_path,t_sec\n,a,0.png,0\n,a,1.png,0\n,a,missing.png,-1\n,b,0.png,soon\n,b,1.png,0\n\
             ,a,2.png,3\n,c,x.npy#one,0\n",
        );
        for part in [
            "manifest.csv:3: clip `a` has two frames at 0 s",
            "manifest.csv:4: `t_sec` is -1, before the start of the clip",
            "manifest.csv:4: clip `a` goes back from 0 s to -1 s",
            "manifest.csv:4: there is no file `",
            "manifest.csv:5: `t_sec` is `soon`, not a number of seconds",
            "manifest.csv:7: clip `a` goes on here after another clip began",
            "manifest.csv:8: `x.npy#one` ends in `#one`",
            "hint: list the frames",
        ] {
            assert!(text.contains(part), "{part}\nnot in\n{text}");
        }
    }

    #[test]
    fn duplicates_changed_splits_and_missing_columns_are_mistakes() {
        let text = message("split,clip_id,frame_path,t_sec\ntrain,a,0.png,0\ntest,a,0.png,1\n");
        assert!(text.contains("csv:3: clip `a` lists `0.png` twice, first in line 2"), "{text}");
        assert!(text.contains("csv:3: clip `a` changes its split or group"), "{text}");
        assert!(message("split,clip_id,t_sec\n").contains("no column `frame_path`"));
        assert!(message("split,clip_id,frame_path,t_sec\n").contains("no frames are listed"));
    }

    #[test]
    fn packed_arrays_and_pixel_tensors_are_read_by_item() {
        let folder = folder_with(
            "split,clip_id,frame_path,t_sec\n,a,f.npy#1,0\n,a,p.safetensors#x.y#1,1\n,a,f.npy#2,2\n,a,p.safetensors#z#0,3\n",
        );
        let array = npy::Array::new([2, 1, 2, 3], (0..12).collect());
        npy::write::<u8>(&folder.path().join("f.npy"), &array).unwrap();
        let bytes: Vec<u8> = (0..6).flat_map(|value| half::f16::from_f32(value as f32 / 2.0).to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F16, vec![2, 3, 1, 1], &bytes).unwrap();
        let file = safetensors::serialize([("x.y", view)], None).unwrap();
        std::fs::write(folder.path().join("p.safetensors"), file).unwrap();
        let manifest = Manifest::load(folder.path()).unwrap();
        let mut reader = Reader::new(&manifest);
        assert_eq!(reader.read(0).unwrap(), Picture::Image(Rgb::new(2, 1, (6..12).collect())));
        assert_eq!(reader.read(1).unwrap(), Picture::Pixels { height: 1, width: 1, values: vec![1.5, 2.0, 2.5] });
        let empty = npy::Array::new([3, 0, 2, 3], Vec::new());
        npy::write::<u8>(&folder.path().join("f.npy"), &empty).unwrap();
        assert!(Reader::new(&manifest).read(0).unwrap_err().to_string().contains("shape [3, 0, 2, 3]"));
        assert!(reader.read(2).unwrap_err().to_string().contains("no image 2"));
        assert!(reader.read(3).unwrap_err().to_string().contains("tensor `z`"));
    }
}
