//! Devices by name: `cpu`, `cuda:0`, `tch:cpu`, `tch:cuda:0`, `auto`.
//!
//! A backend is a Cargo feature, a device is a string chosen at run time. What is not compiled in or not there is an
//! error here, before the first tensor: the backends themselves abort the process when a driver is missing.

use burn::tensor::Device;

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    /// The text names no device.
    #[error("unknown device `{0}`\nhint: use `cpu`, `cuda:N`, `tch:cpu`, `tch:cuda:N` or `auto`")]
    Unknown(String),
    /// The binary was built without the backend.
    #[error("device `{device}` is not compiled in\nhint: rebuild with `--features {feature}`")]
    NotCompiledIn { device: String, feature: &'static str },
    /// The backend is compiled in, but this machine lacks what it needs.
    #[error("device `{device}` cannot be used: {reason}\nhint: {hint}")]
    NotThere { device: String, reason: String, hint: String },
}

impl From<DeviceError> for crate::stages::StageError {
    fn from(error: DeviceError) -> Self {
        let text = error.to_string();
        match text.split_once("\nhint: ") {
            Some((message, hint)) => Self::hint(message, hint),
            None => Self::new(text),
        }
    }
}

/// What a device string means, before anything is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Auto,
    Cpu,
    Cuda(usize),
    TorchCpu,
    TorchCuda(usize),
}

fn name(text: &str) -> Option<Name> {
    let ordinal = |rest: &str| if rest.is_empty() { Some(0) } else { rest.strip_prefix(':')?.parse().ok() };
    match text {
        "auto" => Some(Name::Auto),
        "cpu" => Some(Name::Cpu),
        "tch:cpu" => Some(Name::TorchCpu),
        _ => {
            if let Some(rest) = text.strip_prefix("tch:cuda") {
                ordinal(rest).map(Name::TorchCuda)
            } else {
                ordinal(text.strip_prefix("cuda")?).map(Name::Cuda)
            }
        }
    }
}

/// The device that `text` names. `auto` is the first CUDA device that can be used, else the CPU.
///
/// # Errors
/// A name that is no device, a backend that is not compiled in, a driver or GPU that is not there.
pub fn parse(text: &str) -> Result<Device, DeviceError> {
    let found = name(text).ok_or_else(|| DeviceError::Unknown(text.to_owned()))?;
    match found {
        Name::Auto => cuda("cuda:0", 0).or_else(|_| cpu("cpu")).or_else(|_| torch("tch:cpu", None)),
        Name::Cpu => cpu(text),
        Name::Cuda(ordinal) => cuda(text, ordinal),
        Name::TorchCpu => torch(text, None),
        Name::TorchCuda(ordinal) => torch(text, Some(ordinal)),
    }
}

/// The device that `text` means, by a name that is not `auto`.
///
/// # Errors
/// As [`parse`].
pub fn resolve(text: &str) -> Result<String, DeviceError> {
    let chosen = ["cuda:0", "cpu", "tch:cpu"].into_iter().find(|name| parse(name).is_ok());
    let chosen = if text == "auto" { chosen.unwrap_or("cpu") } else { text };
    parse(chosen).map(|_| chosen.to_owned())
}

/// Whether `text` names a GPU, which holds one step at a time.
pub fn is_gpu(text: &str) -> bool {
    matches!(name(text), Some(Name::Cuda(_) | Name::TorchCuda(_)))
}

/// Bytes of memory that the device has in all; of a CPU what this process may have. `None` where nothing tells.
pub fn memory(text: &str) -> Option<u64> {
    match name(text)? {
        Name::Cuda(ordinal) | Name::TorchCuda(ordinal) => gpu_memory(ordinal),
        Name::Auto | Name::Cpu | Name::TorchCpu => host_memory(),
    }
}

/// The machine's memory, or less where a container or a job scheduler sets a limit (cgroup v2).
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let total = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let path = std::path::Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/'));
    let limits = path.ancestors().take_while(|folder| folder.starts_with("/sys/fs/cgroup"));
    let limits =
        limits.filter_map(|folder| std::fs::read_to_string(folder.join("memory.max")).ok()?.trim().parse().ok());
    limits.chain([total]).min()
}

#[cfg(feature = "cuda")]
fn gpu_memory(ordinal: usize) -> Option<u64> {
    driver::memory(ordinal)
}

#[cfg(not(feature = "cuda"))]
fn gpu_memory(_ordinal: usize) -> Option<u64> {
    None
}

/// Every device of this machine that the binary can use, with the reason for each one that it cannot.
pub fn available() -> Vec<(String, Result<(), DeviceError>)> {
    let mut devices = Vec::new();
    for text in ["cpu", "cuda:0", "tch:cpu", "tch:cuda:0"] {
        devices.push((text.to_owned(), parse(text).map(|_| ())));
    }
    for kind in ["cuda", "tch:cuda"] {
        let more = (1..64).map(|ordinal| format!("{kind}:{ordinal}"));
        devices.extend(more.take_while(|text| parse(text).is_ok()).map(|text| (text, Ok(()))));
    }
    devices
}

#[cfg(feature = "cpu")]
fn cpu(_device: &str) -> Result<Device, DeviceError> {
    Ok(Device::flex())
}

#[cfg(not(feature = "cpu"))]
fn cpu(device: &str) -> Result<Device, DeviceError> {
    Err(DeviceError::NotCompiledIn { device: device.to_owned(), feature: "cpu" })
}

#[cfg(not(feature = "cuda"))]
fn cuda(device: &str, _ordinal: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotCompiledIn { device: device.to_owned(), feature: "cuda" })
}

#[cfg(feature = "cuda")]
fn cuda(device: &str, ordinal: usize) -> Result<Device, DeviceError> {
    let missing =
        |reason: String, hint: &str| DeviceError::NotThere { device: device.to_owned(), reason, hint: hint.to_owned() };
    let count =
        driver::device_count().map_err(|reason| missing(reason, "use `--device cpu`, or install the driver"))?;
    if ordinal >= count {
        let reason = format!("the driver shows {count} devices, so there is no number {ordinal}");
        return Err(missing(reason, "count from 0, and see CUDA_VISIBLE_DEVICES"));
    }
    if !driver::has_compiler() {
        let reason = "libnvrtc.so is not found, and kernels are compiled at run time".to_owned();
        return Err(missing(reason, "put the CUDA toolkit's libraries on LD_LIBRARY_PATH (see docs/backends.md)"));
    }
    Ok(Device::cuda(ordinal))
}

#[cfg(not(feature = "tch"))]
fn torch(device: &str, _cuda: Option<usize>) -> Result<Device, DeviceError> {
    Err(DeviceError::NotCompiledIn { device: device.to_owned(), feature: "tch" })
}

// Burn 0.22 is the last version with LibTorch and says so by deprecation; we keep it as the second road to CUDA.
#[cfg(feature = "tch")]
#[allow(deprecated)]
fn torch(device: &str, cuda: Option<usize>) -> Result<Device, DeviceError> {
    use burn::tensor::DeviceType;
    let Some(ordinal) = cuda else { return Ok(Device::libtorch()) };
    let count = Device::enumerate(DeviceType::LibTorch).into_vec().len();
    if ordinal < count {
        return Ok(Device::libtorch_cuda(ordinal));
    }
    Err(DeviceError::NotThere {
        device: device.to_owned(),
        reason: format!("LibTorch sees {count} CUDA devices"),
        hint: "link against a LibTorch with CUDA (see docs/backends.md), or use `tch:cpu`".to_owned(),
    })
}

/// The least of the CUDA driver's interface that tells whether it can be used.
#[cfg(feature = "cuda")]
mod driver {
    use std::ffi::{CStr, c_int, c_uint, c_void};

    /// Opens a shared library for the life of the process; null when there is none of this name.
    fn open(library: &CStr) -> *mut c_void {
        // SAFETY: the name is a C string; the libraries' initialisers are the vendor's and meant to be loaded so.
        unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) }
    }

    /// The number of CUDA devices, or why there is none.
    pub fn device_count() -> Result<usize, String> {
        let library = open(c"libcuda.so.1");
        if library.is_null() {
            return Err("the driver's libcuda.so.1 is not found".to_owned());
        }
        // SAFETY: both names are looked up in the driver's library, and the types are those of cuda.h
        // (CUresult cuInit(unsigned), CUresult cuDeviceGetCount(int *)).
        unsafe {
            let initialise = libc::dlsym(library, c"cuInit".as_ptr());
            let count = libc::dlsym(library, c"cuDeviceGetCount".as_ptr());
            if initialise.is_null() || count.is_null() {
                return Err("libcuda.so.1 is not NVIDIA's driver".to_owned());
            }
            let initialise: extern "C" fn(c_uint) -> c_int = std::mem::transmute(initialise);
            let count: extern "C" fn(*mut c_int) -> c_int = std::mem::transmute(count);
            let status = initialise(0);
            if status != 0 {
                return Err(format!("the driver does not start (error {status})"));
            }
            let mut found = 0;
            let status = count(&mut found);
            if status != 0 { Err(format!("the driver lists no devices (error {status})")) } else { Ok(found as usize) }
        }
    }

    /// Bytes of memory of a device.
    pub fn memory(ordinal: usize) -> Option<u64> {
        device_count().ok().filter(|count| ordinal < *count)?;
        let library = open(c"libcuda.so.1");
        // SAFETY: the driver is initialised by `device_count`; the types are those of cuda.h
        // (CUresult cuDeviceGet(int *, int), CUresult cuDeviceTotalMem_v2(size_t *, CUdevice)).
        unsafe {
            let get = libc::dlsym(library, c"cuDeviceGet".as_ptr());
            let total = libc::dlsym(library, c"cuDeviceTotalMem_v2".as_ptr());
            if get.is_null() || total.is_null() {
                return None;
            }
            let get: extern "C" fn(*mut c_int, c_int) -> c_int = std::mem::transmute(get);
            let total: extern "C" fn(*mut usize, c_int) -> c_int = std::mem::transmute(total);
            let (mut device, mut bytes) = (0, 0_usize);
            let found = get(&mut device, c_int::try_from(ordinal).ok()?) == 0 && total(&mut bytes, device) == 0;
            found.then_some(bytes as u64)
        }
    }

    /// Whether the run-time compiler is found.
    pub fn has_compiler() -> bool {
        let names = [c"libnvrtc.so", c"libnvrtc.so.13", c"libnvrtc.so.12"];
        names.iter().any(|name| !open(name).is_null())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert_eq!(name("auto"), Some(Name::Auto));
        assert_eq!(name("cpu"), Some(Name::Cpu));
        assert_eq!(name("cuda"), Some(Name::Cuda(0)));
        assert_eq!(name("cuda:3"), Some(Name::Cuda(3)));
        assert_eq!(name("tch:cpu"), Some(Name::TorchCpu));
        assert_eq!(name("tch:cuda:1"), Some(Name::TorchCuda(1)));
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda0", "tch", "cpu:0", ""] {
            assert_eq!(name(wrong), None, "{wrong}");
        }
    }

    #[test]
    #[cfg(not(feature = "tch"))]
    fn a_backend_that_is_left_out_says_how_to_get_it() {
        let error = parse("tch:cpu").expect_err("feature is off").to_string();
        assert_eq!(error, "device `tch:cpu` is not compiled in\nhint: rebuild with `--features tch`");
    }

    #[test]
    #[cfg(feature = "cpu")]
    fn auto_is_resolved_and_the_host_tells_its_memory() {
        let name = resolve("auto").expect("there is always a CPU");
        assert_ne!(name, "auto");
        assert_eq!(is_gpu(&name), name.contains("cuda"));
        assert!(memory("cpu").is_some_and(|bytes| bytes > 1 << 20));
        assert!(resolve("gpu").is_err());
    }

    #[test]
    fn an_unknown_name_is_told_what_there_is() {
        let error = parse("gpu").expect_err("no such device").to_string();
        assert!(error.starts_with("unknown device `gpu`\nhint: "), "{error}");
    }
}
