//! Reads and writes safetensors checkpoints, strictly.
//!
//! A checkpoint is one file, or a Hugging Face folder with `model.safetensors` or with shards and their index. Files
//! are memory-mapped and read tensor by tensor, so that the host never holds a second copy of a model. PyTorch's own
//! files (`.pt`, `.pth`, `.bin`) are read too, by a reader that runs none of the code a pickle may carry. A tensor that
//! is missing, left over or of the wrong shape is an error that names it: a silent partial load leaves a model with
//! random weights, and that is what spoiled the published features.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use memmap2::Mmap;
use pytorch_reader::PytorchReader;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Reading or writing a file failed.
    #[error("`{path}`: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// A file is not what it must be.
    #[error("`{path}`: {reason}")]
    Format { path: PathBuf, reason: String },
    /// The tensors are not those of the model.
    #[error("`{path}` does not fit the model: {report}\nhint: {hint}")]
    Mismatch { path: PathBuf, report: String, hint: &'static str },
}

impl CheckpointError {
    /// For `map_err` on file operations.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// A file that can be read but does not say what it must.
    pub fn format(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Format { path: path.into(), reason: reason.to_string() }
    }
}

impl From<CheckpointError> for crate::stages::StageError {
    fn from(error: CheckpointError) -> Self {
        match error {
            CheckpointError::Io { path, source } => Self::Io { path, source },
            other => {
                let text = other.to_string();
                match text.split_once("\nhint: ") {
                    Some((message, hint)) => Self::hint(message, hint),
                    None => Self::new(text),
                }
            }
        }
    }
}

/// One tensor that a model needs: its name in the checkpoint and its shape.
pub type Expected = (String, Vec<usize>);

/// One tensor of a checkpoint, not read yet.
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    place: Place,
}

enum Place {
    /// Bytes of a memory-mapped file.
    Mapped { shard: usize, bytes: Range<usize> },
    /// A storage of a PyTorch file.
    Torch(Box<pytorch_reader::Tensor>),
}

/// A checkpoint that is open for reading.
pub struct Checkpoint {
    path: PathBuf,
    shards: Vec<Mmap>,
    tensors: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Opens a safetensors or PyTorch file, or the checkpoint of a Hugging Face folder.
    ///
    /// # Errors
    /// No file, not of these formats, an index that names tensors its shards do not have, a tensor in two shards.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self { path: path.to_owned(), shards: Vec::new(), tensors: BTreeMap::new() };
        if path.is_file() {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("pt" | "pth" | "bin") => checkpoint.add_torch(path)?,
                _ => checkpoint.add_safetensors(path)?,
            }
            return Ok(checkpoint);
        }
        let index = path.join("model.safetensors.index.json");
        if !index.is_file() {
            checkpoint.add_safetensors(&path.join("model.safetensors"))?;
            return Ok(checkpoint);
        }
        let text = std::fs::read_to_string(&index).map_err(CheckpointError::io(&index))?;
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let parsed: Index = serde_json::from_str(&text).map_err(|error| CheckpointError::format(&index, error))?;
        let files: BTreeSet<&String> = parsed.weight_map.values().collect();
        for file in files {
            checkpoint.add_safetensors(&path.join(file))?;
        }
        let listed: BTreeSet<&String> = parsed.weight_map.keys().collect();
        let present: BTreeSet<&String> = checkpoint.tensors.keys().collect();
        if let Some(name) = listed.symmetric_difference(&present).next() {
            let reason = format!("the index and its shards differ on `{name}`");
            return Err(CheckpointError::format(&index, reason));
        }
        Ok(checkpoint)
    }

    fn add_safetensors(&mut self, file: &Path) -> Result<(), CheckpointError> {
        let handle = std::fs::File::open(file).map_err(CheckpointError::io(file))?;
        // SAFETY: the map is read only; a file that another process cuts short while we read is outside what a
        // checkpoint may do, as for every memory-mapping reader of this format.
        let map = unsafe { Mmap::map(&handle) }.map_err(CheckpointError::io(file))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|error| CheckpointError::format(file, error))?;
        let start = header + 8;
        for (name, info) in metadata.tensors() {
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            let place = Place::Mapped { shard: self.shards.len(), bytes };
            let entry = Entry { dtype: info.dtype, shape: info.shape.clone(), place };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(CheckpointError::format(file, format!("tensor `{name}` is in two shards")));
            }
        }
        self.shards.push(map);
        Ok(())
    }

    fn add_torch(&mut self, file: &Path) -> Result<(), CheckpointError> {
        use pytorch_reader::DType as Torch;
        let length = std::fs::metadata(file).map_err(CheckpointError::io(file))?.len();
        let reader = PytorchReader::new(file).map_err(|error| CheckpointError::format(file, error))?;
        for (name, tensor) in reader.into_tensors() {
            // `torch.save` compresses nothing, so only a view that repeats its storage can be larger than the file.
            if tensor.byte_len() as u64 > length {
                let reason = format!("tensor `{name}` of shape {:?} is larger than the file", tensor.shape());
                return Err(CheckpointError::format(file, reason));
            }
            let dtype = match tensor.dtype() {
                Torch::F64 => Dtype::F64,
                Torch::F32 => Dtype::F32,
                Torch::F16 => Dtype::F16,
                Torch::BF16 => Dtype::BF16,
                Torch::I32 => Dtype::I32,
                Torch::I64 => Dtype::I64,
                // Counters and masks; named as they are, and refused when a model asks for them.
                _ => Dtype::U8,
            };
            let entry = Entry { dtype, shape: tensor.shape().to_vec(), place: Place::Torch(Box::new(tensor)) };
            self.tensors.insert(name, entry);
        }
        Ok(())
    }

    /// The part of the checkpoint that holds `anchor`, a tensor that the wanted model has exactly once: all tensors
    /// with the same prefix (`student_backbone.backbone.`), which is taken off. Other parts are other models.
    ///
    /// # Errors
    /// No tensor's name ends in `anchor`, or several parts have one.
    pub fn part_with(mut self, anchor: &str) -> Result<Self, CheckpointError> {
        let prefix_of = |name: &str| {
            let prefix = name.strip_suffix(anchor)?;
            (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
        };
        let prefixes: Vec<String> = self.names().filter_map(|name| prefix_of(name)).collect();
        match prefixes.as_slice() {
            [] => {
                let names: Vec<String> = self.names().map(|name| format!("`{name}`")).collect();
                let report = format!("no tensor is called `{anchor}`; it has {}", shortened(&names));
                let hint = "is this the checkpoint of another model?";
                Err(CheckpointError::Mismatch { path: self.path, report, hint })
            }
            [prefix] => {
                let tensors = std::mem::take(&mut self.tensors).into_iter();
                let part = tensors.filter_map(|(name, entry)| Some((name.strip_prefix(prefix)?.to_owned(), entry)));
                self.tensors = part.collect();
                Ok(self)
            }
            [first, second, ..] => {
                let reason = format!("it has several models, under `{first}` and `{second}`");
                Err(CheckpointError::format(&self.path, reason))
            }
        }
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.tensors.keys()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Checks that the checkpoint has exactly the `expected` tensors; those named in `may_have` may be there as well.
    ///
    /// # Errors
    /// One error that lists every tensor that is missing, left over or of another shape.
    pub fn check(&self, expected: &[Expected], may_have: &[&str]) -> Result<(), CheckpointError> {
        let wanted: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
        let missing: Vec<String> =
            wanted.iter().filter(|name| !self.contains(name)).map(|name| format!("`{name}`")).collect();
        let unused = self.names().filter(|name| !wanted.contains(name.as_str()) && !may_have.contains(&name.as_str()));
        let unused: Vec<String> = unused.map(|name| format!("`{name}`")).collect();
        let shapes: Vec<String> = expected
            .iter()
            .filter_map(|(name, shape)| {
                let found = self.shape(name)?;
                (found != shape).then(|| format!("`{name}` is {found:?} and must be {shape:?}"))
            })
            .collect();
        if missing.is_empty() && unused.is_empty() && shapes.is_empty() {
            return Ok(());
        }
        let mut parts = Vec::new();
        let hint = if missing.len() == wanted.len() {
            parts.push(format!("none of its {} tensors has a name of the model", self.tensors.len()));
            "is this the checkpoint of another model, or are its names prefixed?"
        } else {
            "the configuration and the weights must be of the same model; nothing was loaded"
        };
        for (what, names) in [("missing", &missing), ("left over", &unused), ("of another shape", &shapes)] {
            if !names.is_empty() {
                parts.push(format!("{} {what}: {}", names.len(), shortened(names)));
            }
        }
        Err(CheckpointError::Mismatch { path: self.path.clone(), report: parts.join("; "), hint })
    }

    fn entry(&self, name: &str) -> Result<(&Entry, Cow<'_, [u8]>), CheckpointError> {
        let absent = || CheckpointError::format(&self.path, format!("there is no tensor `{name}`"));
        let entry = self.tensors.get(name).ok_or_else(absent)?;
        let bytes = match &entry.place {
            Place::Mapped { shard, bytes } => Cow::Borrowed(&self.shards[*shard][bytes.clone()]),
            Place::Torch(tensor) => Cow::Owned(tensor.read().map_err(CheckpointError::io(&self.path))?),
        };
        Ok((entry, bytes))
    }

    /// The values of a tensor as f32, row-major, with its shape. Takes f64, f32, f16, bf16 and 32-bit integers.
    ///
    /// # Errors
    /// No such tensor, or a type that has no float meaning here.
    pub fn floats(&self, name: &str) -> Result<(Vec<f32>, Vec<usize>), CheckpointError> {
        let (entry, bytes) = self.entry(name)?;
        let values = match entry.dtype {
            Dtype::F32 => words(&bytes, f32::from_le_bytes),
            Dtype::BF16 => words(&bytes, |word| bf16::from_le_bytes(word).to_f32()),
            Dtype::F16 => words(&bytes, |word| f16::from_le_bytes(word).to_f32()),
            Dtype::F64 => words(&bytes, |word| f64::from_le_bytes(word) as f32),
            Dtype::I32 => words(&bytes, |word| i32::from_le_bytes(word) as f32),
            other => return Err(self.not_float(name, other)),
        };
        Ok((values, entry.shape.clone()))
    }

    /// A tensor's values as `dtype` (f32, f16 or bf16), whatever the stored type is.
    ///
    /// # Errors
    /// No such tensor, or a type that has no float meaning here.
    pub fn data(&self, name: &str, dtype: DType) -> Result<TensorData, CheckpointError> {
        let (entry, bytes) = self.entry(name)?;
        let shape = entry.shape.clone();
        Ok(match (entry.dtype, dtype) {
            (Dtype::BF16, DType::BF16) => TensorData::new(words(&bytes, bf16::from_le_bytes), shape),
            (Dtype::F16, DType::F16) => TensorData::new(words(&bytes, f16::from_le_bytes), shape),
            _ => narrowed(self.floats(name)?, dtype),
        })
    }

    /// An error that the tensors are not those of the wanted model.
    pub fn misfit(&self, report: String, hint: &'static str) -> CheckpointError {
        CheckpointError::Mismatch { path: self.path.clone(), report, hint }
    }

    fn not_float(&self, name: &str, dtype: Dtype) -> CheckpointError {
        CheckpointError::format(&self.path, format!("tensor `{name}` has type {dtype:?}, which is no float type"))
    }
}

fn words<const N: usize, T>(bytes: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|&word| value(word)).collect()
}

fn narrowed((values, shape): (Vec<f32>, Vec<usize>), dtype: DType) -> TensorData {
    match dtype {
        DType::BF16 => TensorData::new(values.into_iter().map(bf16::from_f32).collect(), shape),
        DType::F16 => TensorData::new(values.into_iter().map(f16::from_f32).collect(), shape),
        _ => TensorData::new(values, shape),
    }
}

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 6;
    if names.len() <= SHOWN {
        return names.join(", ");
    }
    format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN)
}

/// Writes tensors to a safetensors file, as f32, f16 or bf16 as they are. The file appears whole or not at all.
///
/// # Errors
/// The file cannot be written, or a tensor is of no float type.
pub fn save(path: &Path, tensors: Vec<(String, TensorData)>) -> Result<(), CheckpointError> {
    let mut views = Vec::with_capacity(tensors.len());
    for (name, data) in &tensors {
        let dtype = match data.dtype() {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            other => return Err(CheckpointError::format(path, format!("tensor `{name}` has type {other:?}"))),
        };
        let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes());
        views.push((name.as_str(), view.map_err(|error| CheckpointError::format(path, error))?));
    }
    let metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let partial = path.with_extension("partial");
    safetensors::serialize_to_file(views, Some(metadata), &partial).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => CheckpointError::Io { path: partial.clone(), source },
        other => CheckpointError::format(&partial, other),
    })?;
    std::fs::rename(&partial, path).map_err(CheckpointError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(folder: &Path, name: &str, tensors: &[(&str, &[usize])]) {
        let zeros = |shape: &[usize]| TensorData::new(vec![0.5f32; shape.iter().product()], shape.to_vec());
        let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), zeros(shape))).collect();
        save(&folder.join(name), tensors).expect("a temporary folder can be written");
    }

    fn expected(tensors: &[(&str, &[usize])]) -> Vec<Expected> {
        tensors.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
    }

    #[test]
    fn every_tensor_that_does_not_fit_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        written(folder.path(), "model.safetensors", &[("a", &[2, 3]), ("b", &[2]), ("extra", &[1])]);
        let checkpoint = Checkpoint::open(folder.path()).expect("a good file");
        let error = checkpoint.check(&expected(&[("a", &[3, 2]), ("b", &[2]), ("c", &[4])]), &[]).expect_err("misfit");
        let text = error.to_string();
        assert!(text.contains("1 missing: `c`; 1 left over: `extra`"), "{text}");
        assert!(text.contains("`a` is [2, 3] and must be [3, 2]"), "{text}");
        checkpoint.check(&expected(&[("a", &[2, 3]), ("b", &[2])]), &["extra"]).expect("`extra` is allowed");
    }

    #[test]
    fn a_checkpoint_of_which_no_name_matches_says_so() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        written(folder.path(), "model.safetensors", &[("backbone.a", &[2])]);
        let checkpoint = Checkpoint::open(folder.path()).expect("a good file");
        let text = checkpoint.check(&expected(&[("a", &[2])]), &[]).expect_err("misfit").to_string();
        assert!(text.contains("none of its 1 tensors has a name of the model"), "{text}");
    }

    #[test]
    fn shards_are_joined_by_their_index() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        written(folder.path(), "one.safetensors", &[("a", &[2])]);
        written(folder.path(), "two.safetensors", &[("b", &[3])]);
        let index = |map: &str| {
            let text = format!("{{\"metadata\":{{}},\"weight_map\":{map}}}");
            std::fs::write(folder.path().join("model.safetensors.index.json"), text).expect("a temporary folder");
        };
        index(r#"{"a":"one.safetensors","b":"two.safetensors"}"#);
        let checkpoint = Checkpoint::open(folder.path()).expect("good shards");
        assert_eq!(checkpoint.floats("b").expect("in shard two"), (vec![0.5; 3], vec![3]));
        index(r#"{"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"}"#);
        let text = Checkpoint::open(folder.path()).err().expect("`c` is in no shard").to_string();
        assert!(text.contains("differ on `c`"), "{text}");
    }

    #[test]
    fn a_view_that_is_larger_than_its_file_is_refused_before_memory_is_taken() {
        // By `tests/data/make_expanded.py`: 400,000 bytes in a file of 641.
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/expanded.pt");
        let error = Checkpoint::open(&path).err().expect("it is refused").to_string();
        assert!(error.contains("tensor `bias` of shape [100000] is larger than the file"), "{error}");
    }

    #[test]
    fn halves_are_widened_and_kept() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("halves.safetensors");
        let halves = TensorData::new(vec![bf16::from_f32(1.5), bf16::from_f32(-2.0)], [2]);
        save(&path, vec![("h".to_owned(), halves)]).expect("a temporary folder can be written");
        let checkpoint = Checkpoint::open(&path).expect("a good file");
        assert_eq!(checkpoint.floats("h").expect("a float").0, [1.5, -2.0]);
        assert_eq!(checkpoint.data("h", DType::BF16).expect("a tensor").dtype(), DType::BF16);
        let widened = checkpoint.data("h", DType::F32).expect("a tensor");
        assert_eq!(widened.try_into_vec::<f32>().expect("f32"), [1.5, -2.0]);
    }
}
