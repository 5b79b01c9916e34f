//! NumPy's npy and npz files: what arrays are kept in, so that Python reads them in one line.
//!
//! Format: NEP 1 (<https://numpy.org/neps/nep-0001-npy-format.html>), version 1.0, little-endian, C order. Only the types
//! that soctok writes are read. Files of equal content are equal byte for byte (npz entries carry no time).

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What can go wrong with an array file.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The file could not be read or written.
    #[error("`{path}`: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    /// The bytes are not an array that this module reads.
    #[error("`{path}` is not an array file that soctok reads: {reason}")]
    Format { path: PathBuf, reason: String },
}

impl From<NpyError> for crate::stages::StageError {
    fn from(error: NpyError) -> Self {
        match error {
            NpyError::Io { path, source } => Self::Io { path, source },
            other => Self::new(other.to_string()),
        }
    }
}

/// A row-major array with its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Length of each dimension.
    pub shape: Vec<usize>,
    /// Row-major values; as many as the product of `shape`.
    pub values: Vec<T>,
}

impl<T> Array<T> {
    /// `values` must have as many elements as `shape` says.
    pub fn new(shape: impl Into<Vec<usize>>, values: Vec<T>) -> Self {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<usize>(), values.len(), "shape {shape:?} does not fit the values");
        Self { shape, values }
    }

    /// The slice at `index` of the first dimension.
    pub fn row(&self, index: usize) -> &[T] {
        let width: usize = self.shape[1..].iter().product();
        &self.values[index * width..(index + 1) * width]
    }
}

/// An element type of npy files.
pub trait Element: Copy {
    /// NumPy's type string (`<f4`).
    const DESCRIPTION: &'static str;
    /// Bytes of one element.
    const SIZE: usize;
    /// Appends the little-endian bytes.
    fn put(self, bytes: &mut Vec<u8>);
    /// Reads from `SIZE` little-endian bytes.
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! element {
    ($type:ty, $description:literal) => {
        impl Element for $type {
            const DESCRIPTION: &'static str = $description;
            const SIZE: usize = size_of::<$type>();
            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
            fn take(bytes: &[u8]) -> Self {
                let mut buffer = [0; size_of::<$type>()];
                buffer.copy_from_slice(bytes);
                Self::from_le_bytes(buffer)
            }
        }
    };
}
element!(f32, "<f4");
element!(f64, "<f8");
element!(i32, "<i4");
element!(i64, "<i8");
element!(u8, "|u1");

fn encode<T: Element>(array: &Array<T>) -> Vec<u8> {
    let mut shape: String = array.shape.iter().map(|length| format!("{length}, ")).collect();
    if array.shape.len() > 1 {
        shape.truncate(shape.len() - 2);
    } else if array.shape.len() == 1 {
        shape.truncate(shape.len() - 1);
    }
    let mut header = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({shape}), }}", T::DESCRIPTION);
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = Vec::with_capacity(10 + header.len() + array.values.len() * T::SIZE);
    bytes.extend_from_slice(b"\x93NUMPY\x01\x00");
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    array.values.iter().for_each(|value| value.put(&mut bytes));
    bytes
}

fn decode<T: Element>(bytes: &[u8]) -> Result<Array<T>, String> {
    if bytes.len() < 10 || &bytes[..6] != b"\x93NUMPY" {
        return Err("it does not begin with the npy mark".into());
    }
    let (start, length) = match bytes[6] {
        1 => (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))),
        2 | 3 if bytes.len() >= 12 => (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize),
        version => return Err(format!("npy version {version} is not known")),
    };
    let header = bytes.get(start..start + length).ok_or("the header is cut off")?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    let field = |name: &str| {
        let after = header.split_once(&format!("'{name}':"))?.1;
        Some(after.trim_start())
    };
    let description = field("descr").and_then(|text| text.strip_prefix('\'')?.split('\'').next());
    if description != Some(T::DESCRIPTION) {
        let found = description.unwrap_or("another");
        let wanted = T::DESCRIPTION;
        let name = match wanted {
            "<f4" => "float32",
            "<f8" => "float64",
            "<i4" => "int32",
            "<i8" => "int64",
            _ => "uint8",
        };
        return Err(format!("its values are of type `{found}`, not `{wanted}`: save it with `array.astype('{name}')`"));
    }
    if !field("fortran_order").is_some_and(|text| text.starts_with("False")) {
        return Err("it is in column-major order: save it with `numpy.ascontiguousarray`".into());
    }
    let shape = field("shape").and_then(|text| text.strip_prefix('(')?.split(')').next()).ok_or("it has no shape")?;
    let shape: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().map_err(|_| format!("`{part}` is not a length")))
        .collect::<Result<_, _>>()?;
    let count = shape.iter().try_fold(T::SIZE, |product, &length| product.checked_mul(length));
    let data = &bytes[start + length..];
    if count != Some(data.len()) {
        return Err(format!("shape {shape:?} does not fit the {} bytes of data", data.len()));
    }
    Ok(Array { shape, values: data.chunks_exact(T::SIZE).map(T::take).collect() })
}

/// Writes one array.
pub fn write<T: Element>(path: &Path, array: &Array<T>) -> Result<(), NpyError> {
    std::fs::write(path, encode(array)).map_err(|source| NpyError::Io { path: path.into(), source })
}

/// Reads one array; its type must be `T`.
pub fn read<T: Element>(path: &Path) -> Result<Array<T>, NpyError> {
    let bytes = std::fs::read(path).map_err(|source| NpyError::Io { path: path.into(), source })?;
    decode(&bytes).map_err(|reason| NpyError::Format { path: path.into(), reason })
}

/// Writes named arrays into one uncompressed archive, in the order given.
pub fn write_npz<'a, T: Element + 'a>(
    path: &Path,
    arrays: impl IntoIterator<Item = (&'a str, &'a Array<T>)>,
) -> Result<(), NpyError> {
    let io = |source| NpyError::Io { path: path.into(), source };
    let file = std::fs::File::create(path).map_err(io)?;
    let mut archive = zip::ZipWriter::new(std::io::BufWriter::new(file));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .large_file(true);
    for (name, array) in arrays {
        archive.start_file(format!("{name}.npy"), options).map_err(|error| io(error.into()))?;
        archive.write_all(&encode(array)).map_err(io)?;
    }
    archive.finish().map_err(|error| io(error.into()))?.flush().map_err(io)
}

/// Reads every array of an archive, by name; all must be of type `T`.
pub fn read_npz<T: Element>(path: &Path) -> Result<BTreeMap<String, Array<T>>, NpyError> {
    let mut archive = open_npz(path)?;
    let mut arrays: BTreeMap<String, Array<T>> = BTreeMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(|error| unreadable(path, error))?;
        let name = entry.name().map_err(|error| unreadable(path, error))?.trim_end_matches(".npy").to_owned();
        let size = entry.size();
        let array = unpack(path, &name, entry, size)?;
        if arrays.insert(name.clone(), array).is_some() {
            return Err(NpyError::Format { path: path.into(), reason: format!("array `{name}` stands in it twice") });
        }
    }
    Ok(arrays)
}

/// Reads one array of an archive and leaves the others on the disk; `None` when there is no such array.
pub fn read_npz_array<T: Element>(path: &Path, name: &str) -> Result<Option<Array<T>>, NpyError> {
    let mut archive = open_npz(path)?;
    match archive.by_name(&format!("{name}.npy")) {
        Ok(entry) => {
            let size = entry.size();
            unpack(path, name, entry, size).map(Some)
        }
        Err(zip::result::ZipError::FileNotFound) => Ok(None),
        Err(error) => Err(unreadable(path, error)),
    }
}

fn open_npz(path: &Path) -> Result<zip::ZipArchive<std::io::BufReader<std::fs::File>>, NpyError> {
    let io = |source| NpyError::Io { path: path.into(), source };
    let file = std::fs::File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let listed = listed(&file, length).map_err(io)?;
    let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|error| unreadable(path, error))?;
    // Of entries with one name the archive shows the last.
    if listed.is_some_and(|listed| listed != archive.len()) {
        let reason = format!("it lists {} arrays under {} names", listed.unwrap_or_default(), archive.len());
        return Err(NpyError::Format { path: path.into(), reason });
    }
    let mut packed = 0u64;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|error| unreadable(path, error))?;
        packed = packed.saturating_add(entry.compressed_size());
    }
    // Entries that lie over each other unpack to far more than the file could hold.
    if packed > length {
        let reason = format!("its arrays take {packed} bytes of a file of {length}");
        return Err(NpyError::Format { path: path.into(), reason });
    }
    Ok(archive)
}

/// How many entries the end of an archive counts; `None` where it has another form than NumPy and soctok write: a remark
/// behind it, or more entries than two bytes count.
fn listed(mut file: &std::fs::File, length: u64) -> std::io::Result<Option<usize>> {
    const END: u64 = 22;
    if length < END {
        return Ok(None);
    }
    let mut end = [0; END as usize];
    file.seek(SeekFrom::Start(length - END))?;
    file.read_exact(&mut end)?;
    file.rewind()?;
    let count = u16::from_le_bytes([end[10], end[11]]);
    Ok((end.starts_with(b"PK\x05\x06") && count < u16::MAX).then_some(usize::from(count)))
}

fn unreadable(path: &Path, error: zip::result::ZipError) -> NpyError {
    NpyError::Format { path: path.into(), reason: error.to_string() }
}

/// Reads an entry of `size` bytes, and no more whatever it unpacks to.
fn unpack<T: Element>(path: &Path, name: &str, entry: impl Read, size: u64) -> Result<Array<T>, NpyError> {
    let mut bytes = Vec::new();
    entry.take(size).read_to_end(&mut bytes).map_err(|source| NpyError::Io { path: path.into(), source })?;
    decode(&bytes).map_err(|reason| NpyError::Format { path: path.into(), reason: format!("array `{name}`: {reason}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_back_as_they_were() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.npy");
        for shape in [vec![6], vec![2, 3], vec![3, 1, 2], vec![0, 4]] {
            let array = Array::new(shape.clone(), (0..shape.iter().product()).map(|i: usize| i as f32 / 3.0).collect());
            write(&path, &array).expect("writes");
            assert_eq!(read::<f32>(&path).expect("reads"), array);
        }
        let error = read::<u8>(&path).expect_err("of another type");
        assert!(error.to_string().contains("`<f4`, not `|u1`"), "{error}");
        let scalar = Array::new(vec![], vec![7i64]);
        write(&path, &scalar).expect("writes");
        assert_eq!(read::<i64>(&path).expect("reads"), scalar);
    }

    #[test]
    fn the_header_is_the_one_that_numpy_writes() {
        // numpy.save of numpy.zeros((2, 3), "<f4"), NumPy 2.4: 128 bytes of header.
        let bytes = encode(&Array::new([2, 3], vec![0f32; 6]));
        assert_eq!(bytes.len(), 128 + 24);
        assert!(bytes[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   "));
        assert!(
            encode(&Array::new([5], vec![0u8; 5]))[10..]
                .starts_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': (5,), }")
        );
    }

    #[test]
    fn archives_keep_names_and_are_the_same_bytes_each_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (one, two) = (folder.path().join("1.npz"), folder.path().join("2.npz"));
        let array = Array::new([2, 2], vec![1f32, 2.0, 3.0, 4.0]);
        for path in [&one, &two] {
            write_npz(path, [("all.last", &array), ("eos.0", &array)]).expect("writes");
        }
        assert_eq!(std::fs::read(&one).expect("reads"), std::fs::read(&two).expect("reads"));
        let back = read_npz::<f32>(&one).expect("reads");
        assert_eq!(back.keys().collect::<Vec<_>>(), ["all.last", "eos.0"]);
        assert_eq!(back["eos.0"], array);
        assert_eq!(read_npz_array::<f32>(&one, "all.last").expect("reads"), Some(array));
        assert_eq!(read_npz_array::<f32>(&one, "all").expect("reads"), None);
    }

    #[test]
    fn archives_whose_entries_lie_over_each_other_are_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.npz");
        write_npz(&path, [("a", &Array::new([1000], vec![1f32; 1000]))]).expect("writes");
        let bytes = std::fs::read(&path).expect("reads");
        let find = |mark: &[u8]| bytes.windows(4).position(|window| window == mark).expect("it is there");
        let (directory, end) = (find(b"PK\x01\x02"), find(b"PK\x05\x06"));
        // A second record of the directory, under another name, for the same bytes; the end counts two records.
        let record = &bytes[directory..end];
        let name = record.windows(5).position(|window| window == b"a.npy").expect("it is there");
        let mut second = record.to_vec();
        second[name] = b'b';
        let mut last = bytes[end..].to_vec();
        (last[8], last[10], last[12]) = (2, 2, last[12] * 2);
        std::fs::write(&path, [&bytes[..end], &second, &last].concat()).expect("writes");
        let error = read_npz::<f32>(&path).expect_err("it lies").to_string();
        assert!(error.contains("its arrays take 8256 bytes of a file of"), "{error}");
    }

    #[test]
    fn an_array_that_stands_twice_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.npz");
        let one = Array::new([1], vec![1f32]);
        write_npz(&path, [("a", &one), ("b", &one)]).expect("writes");
        // Both names of the second, before its bytes and in the directory.
        let mut bytes = std::fs::read(&path).expect("reads");
        let places: Vec<usize> = (0..bytes.len() - 5).filter(|&at| &bytes[at..at + 5] == b"b.npy").collect();
        assert_eq!(places.len(), 2);
        places.iter().for_each(|&at| bytes[at] = b'a');
        std::fs::write(&path, bytes).expect("writes");
        let error = read_npz::<f32>(&path).expect_err("which of the two").to_string();
        assert!(error.contains("it lists 2 arrays under 1 names"), "{error}");
        assert!(read_npz_array::<f32>(&path, "a").is_err());
        // Two names of the archive that are one of an array.
        write_npz(&path, [("a", &one), ("a.npy", &one)]).expect("writes");
        let error = read_npz::<f32>(&path).expect_err("which of the two").to_string();
        assert!(error.contains("array `a` stands in it twice"), "{error}");
    }

    #[test]
    fn headers_that_claim_more_than_there_is_are_refused_before_memory_is_taken() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.npy");
        for shape in ["(4611686018427387904, 4611686018427387904)", "(1099511627776,)", "(0, 18446744073709551616)"] {
            let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
            bytes.extend(
                format!("{:117}\n", format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}")).bytes(),
            );
            std::fs::write(&path, bytes).expect("writes");
            let error = read::<f32>(&path).expect_err("it lies").to_string();
            assert!(error.contains("does not fit") || error.contains("is not a length"), "{error}");
        }
    }

    #[test]
    fn cut_off_and_foreign_files_are_errors() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("bad.npy");
        let good = encode(&Array::new([4], vec![1f32; 4]));
        for bytes in [&good[..4], &good[..40], &good[..good.len() - 1], b"not an array at all".as_slice()] {
            std::fs::write(&path, bytes).expect("writes");
            assert!(read::<f32>(&path).is_err());
        }
    }
}
