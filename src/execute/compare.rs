//! By how much two files of numbers differ: npy, npz, safetensors, JSON, JSON lines, CSV.

use std::path::Path;

use serde_json::Value;

use super::rerun::Difference;
use crate::npy::{self, Array, Element};

/// How `new` differs from `old`, whose bytes are others.
pub(super) fn files(old: &Path, new: &Path) -> Difference {
    match (Content::read(old), Content::read(new)) {
        (Some(old), Some(new)) => old.difference(&new),
        _ => Difference::Bytes,
    }
}

/// What a file holds: its numbers in their order, and a digest of everything else (names, shapes, text).
#[derive(Default)]
struct Content {
    numbers: Vec<f64>,
    rest: blake3::Hasher,
}

impl Content {
    /// `None` when it is no file of numbers that is known here.
    fn read(path: &Path) -> Option<Self> {
        let mut content = Self::default();
        match path.extension()?.to_str()? {
            "npy" => {
                let found = content.array::<f32>(npy::read(path)) || content.array::<f64>(npy::read(path));
                let found = found || content.array::<i64>(npy::read(path)) || content.array::<i32>(npy::read(path));
                (found || content.array::<u8>(npy::read(path))).then_some(content)
            }
            "npz" => {
                let found = content.arrays::<f32>(path) || content.arrays::<f64>(path);
                (found || content.arrays::<i64>(path) || content.arrays::<i32>(path)).then_some(content)
            }
            "safetensors" => content.tensors(&std::fs::read(path).ok()?).then_some(content),
            "json" => {
                content.json(&serde_json::from_slice(&std::fs::read(path).ok()?).ok()?);
                Some(content)
            }
            "jsonl" => {
                for line in std::fs::read_to_string(path).ok()?.lines() {
                    content.json(&serde_json::from_str(line).ok()?);
                }
                Some(content)
            }
            "csv" => {
                let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_path(path).ok()?;
                for record in reader.records() {
                    record.ok()?.iter().for_each(|cell| content.cell(cell));
                    content.text("\n");
                }
                Some(content)
            }
            _ => None,
        }
    }

    fn difference(&self, other: &Self) -> Difference {
        if self.rest.finalize() != other.rest.finalize() || self.numbers.len() != other.numbers.len() {
            return Difference::Bytes;
        }
        let (mut different, mut largest) = (0, 0.0_f64);
        for (one, two) in self.numbers.iter().zip(&other.numbers) {
            if one.to_bits() != two.to_bits() {
                different += 1;
                let by = (one - two).abs();
                largest = largest.max(if by.is_nan() { f64::INFINITY } else { by });
            }
        }
        match different {
            // The same numbers written in another way.
            0 => Difference::Bytes,
            _ => Difference::Values { different, total: self.numbers.len(), largest },
        }
    }

    fn text(&mut self, text: &str) {
        self.rest.update(&(text.len() as u64).to_le_bytes());
        self.rest.update(text.as_bytes());
    }

    fn number(&mut self, number: f64) {
        self.text("number");
        self.numbers.push(number);
    }

    fn cell(&mut self, cell: &str) {
        match cell.trim().parse() {
            Ok(number) => self.number(number),
            Err(_) => self.text(cell),
        }
    }

    fn json(&mut self, value: &Value) {
        match value {
            Value::Number(number) => self.number(number.as_f64().unwrap_or(f64::NAN)),
            Value::Array(values) => {
                self.text(&format!("[{}", values.len()));
                values.iter().for_each(|value| self.json(value));
            }
            Value::Object(entries) => {
                self.text(&format!("{{{}", entries.len()));
                for (name, value) in entries {
                    self.text(name);
                    self.json(value);
                }
            }
            other => self.text(&other.to_string()),
        }
    }

    fn array<T: Element + Into<Number>>(&mut self, array: Result<Array<T>, npy::NpyError>) -> bool {
        let Ok(array) = array else { return false };
        self.text(&format!("{} {:?}", T::DESCRIPTION, array.shape));
        self.numbers.extend(array.values.into_iter().map(|value| Into::<Number>::into(value).0));
        true
    }

    fn arrays<T: Element + Into<Number>>(&mut self, path: &Path) -> bool {
        let Ok(arrays) = npy::read_npz::<T>(path) else { return false };
        for (name, array) in arrays {
            self.text(&name);
            self.array(Ok(array));
        }
        true
    }

    fn tensors(&mut self, bytes: &[u8]) -> bool {
        use safetensors::Dtype;
        let Ok(tensors) = safetensors::SafeTensors::deserialize(bytes) else { return false };
        let mut all = tensors.tensors();
        all.sort_by(|one, two| one.0.cmp(&two.0));
        for (name, tensor) in all {
            self.text(&format!("{name} {:?} {:?}", tensor.dtype(), tensor.shape()));
            let data = tensor.data();
            match tensor.dtype() {
                Dtype::F64 => self.elements(data, |b: [u8; 8]| f64::from_le_bytes(b)),
                Dtype::F32 => self.elements(data, |b: [u8; 4]| f32::from_le_bytes(b).into()),
                Dtype::F16 => self.elements(data, |b: [u8; 2]| half::f16::from_le_bytes(b).into()),
                Dtype::BF16 => self.elements(data, |b: [u8; 2]| half::bf16::from_le_bytes(b).into()),
                Dtype::I64 => self.elements(data, |b: [u8; 8]| i64::from_le_bytes(b) as f64),
                Dtype::I32 => self.elements(data, |b: [u8; 4]| i32::from_le_bytes(b).into()),
                _ => {
                    self.rest.update(data);
                }
            }
        }
        true
    }

    fn elements<const SIZE: usize>(&mut self, data: &[u8], number: impl Fn([u8; SIZE]) -> f64) {
        self.numbers.extend(data.as_chunks::<SIZE>().0.iter().map(|bytes| number(*bytes)));
    }
}

/// A number of any element type.
struct Number(f64);

macro_rules! number {
    ($($type:ty),*) => {$(
        impl From<$type> for Number {
            fn from(value: $type) -> Self {
                Self(value as f64)
            }
        }
    )*};
}
number!(f32, f64, i32, i64, u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_difference_of_each_kind_of_file_is_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| folder.path().join(name);
        let values = |different, total, largest| Difference::Values { different, total, largest };
        let write = |name: &str, text: &str| std::fs::write(place(name), text).expect("writes");
        write("a.csv", "x,y\nw,1.5\nv,2\n");
        write("b.csv", "x,y\nw,1.25\nv,2\n");
        assert_eq!(files(&place("a.csv"), &place("b.csv")), values(1, 2, 0.25));
        write("b.csv", "x,y\nz,1.25\nv,2\n");
        assert_eq!(files(&place("a.csv"), &place("b.csv")), Difference::Bytes, "a word differs");
        write("a.json", r#"{"a": [1, 2.5], "b": null}"#);
        write("b.json", r#"{"a": [1, 2.0], "b": null}"#);
        assert_eq!(files(&place("a.json"), &place("b.json")), values(1, 2, 0.5));
        write("b.json", r#"{"a": [1], "b": 2.5}"#);
        assert_eq!(files(&place("a.json"), &place("b.json")), Difference::Bytes);
        npy::write(&place("a.npy"), &Array::new([3], vec![1.0_f32, 2.0, f32::NAN])).expect("writes");
        npy::write(&place("b.npy"), &Array::new([3], vec![1.0_f32, 2.5, f32::NAN])).expect("writes");
        assert_eq!(files(&place("a.npy"), &place("b.npy")), values(1, 3, 0.5));
        npy::write(&place("b.npy"), &Array::new([3], vec![1.0_f32, f32::NAN, f32::NAN])).expect("writes");
        assert_eq!(files(&place("a.npy"), &place("b.npy")), values(1, 3, f64::INFINITY));
        for (name, value) in [("a.npz", 7_i64), ("b.npz", 9)] {
            let array = Array::new([1], vec![value]);
            npy::write_npz(&place(name), [("x", &array)]).expect("writes");
        }
        assert_eq!(files(&place("a.npz"), &place("b.npz")), values(1, 1, 2.0));
        for (name, value) in [("a.safetensors", 1.0_f32), ("b.safetensors", 1.5)] {
            let bytes = value.to_le_bytes();
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &bytes).expect("fits");
            safetensors::serialize_to_file([("x", view)], None, &place(name)).expect("writes");
        }
        assert_eq!(files(&place("a.safetensors"), &place("b.safetensors")), values(1, 1, 0.5));
        write("a.txt", "1");
        write("b.txt", "2");
        assert_eq!(files(&place("a.txt"), &place("b.txt")), Difference::Bytes);
    }
}
