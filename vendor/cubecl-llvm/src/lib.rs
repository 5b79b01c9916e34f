//! Stand-in for `cubecl-llvm` with no LLVM behind it (build with `cubecl-cuda/cpp`).
use cubecl_core::ir::amd::GfxArch;
use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_runtime::compiler::{CompilationError, Compiler};
use cubecl_runtime::kernel::BufferIOAttr;

pub mod nvptx {
    pub mod ptx_version {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct PtxVersion(u32);
        impl PtxVersion {
            pub fn for_driver(_driver: i32) -> Option<Self> { None }
        }
        impl core::fmt::Display for PtxVersion {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { write!(f, "ptx{}", self.0) }
        }
    }
}
pub mod shared {
    pub mod lowered_features {
        pub enum GpuTarget { Nvptx }
        pub fn restrict_features<P>(_props: &mut P, _target: GpuTarget) {}
    }
}
use nvptx::ptx_version::PtxVersion;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget { #[default] Cpu, Nvptx }
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler { pub target: LlvmTarget }
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    pub arch: Option<GfxArch>,
    pub sm_arch: Option<SmArch>,
    pub ptx_version: Option<PtxVersion>,
    pub grid_constants: bool,
}
#[derive(Clone, Debug)]
pub struct NvptxModule {
    pub ptx: Vec<core::ffi::c_char>,
    pub entrypoint: String,
    pub ir: String,
    pub shared_memory_size: usize,
    pub io: Vec<BufferIOAttr>,
}
#[derive(Clone, Debug)]
pub enum PlironArtifact { NvptxCode(NvptxModule), Never }
impl core::fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result { f.write_str("none") }
}
impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;
    fn compile(&mut self, _k: KernelDefinition, _o: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        unreachable!("built without LLVM: the cubecl-cuda `cpp` feature selects NVRTC")
    }
    fn extension(&self) -> &'static str { "ll" }
    fn lang_tag(&self) -> &'static str { "llvm" }
}
