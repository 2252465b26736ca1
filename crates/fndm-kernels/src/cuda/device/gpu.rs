//! A GPU as the [`Machine`] that programs run on.

use super::super::machine::{Arg, Kind, Launch, Machine, Matrix, Product, View, size};
use super::super::source::Source;
use crate::config::tf32;
use candle_core::cuda::cudarc::cublas::{result, sys};
use candle_core::cuda::cudarc::driver::{
    CudaSlice, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda::cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};
use candle_core::cuda::{CudaStorage, WrapErr};
use candle_core::{CudaDevice, Error, Result};
use half::bf16;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Architectures that kernels are compiled for, in rising order: the last one that the GPU has is taken.
const ARCHITECTURES: [(i32, &str); 10] = [
    (75, "compute_75"),
    (80, "compute_80"),
    (86, "compute_86"),
    (87, "compute_87"),
    (89, "compute_89"),
    (90, "compute_90"),
    (100, "compute_100"),
    (103, "compute_103"),
    (110, "compute_110"),
    (120, "compute_120"),
];

/// Compiled kernels by file and architecture.
type Compiled = HashMap<(&'static str, &'static str), Arc<str>>;

/// Compiling takes seconds, so it is done once a process.
static COMPILED: Mutex<Option<Compiled>> = Mutex::new(None);

pub(crate) struct Gpu<'a>(pub(crate) &'a CudaDevice);

/// Memory of a GPU, freed in the order of its stream.
#[derive(Debug)]
pub(crate) struct Memory {
    values: Values,
    address: u64,
}

#[derive(Debug)]
enum Values {
    F32(CudaSlice<f32>),
    Bf16(CudaSlice<bf16>),
    U32(CudaSlice<u32>),
    #[allow(dead_code, reason = "held so that the memory is kept")]
    U64(CudaSlice<u64>),
}

impl Memory {
    /// As candle holds it.
    pub(crate) fn into_storage(self, device: &CudaDevice) -> Result<CudaStorage> {
        let device = device.clone();
        Ok(match self.values {
            Values::F32(v) => CudaStorage::wrap_cuda_slice(v, device),
            Values::Bf16(v) => CudaStorage::wrap_cuda_slice(v, device),
            Values::U32(v) => CudaStorage::wrap_cuda_slice(v, device),
            Values::U64(_) => candle_core::bail!("cuda: addresses are no tensor"),
        })
    }
}

impl Gpu<'_> {
    fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.0.cuda_stream()).0
    }

    fn memory<T: DeviceRepr>(
        &self,
        n: usize,
        wrap: impl FnOnce(CudaSlice<T>) -> Values,
    ) -> Result<Memory> {
        // SAFETY: programs write memory before they read it, as the emulator's tests see.
        let slice = unsafe { self.0.alloc::<T>(n.max(1))? };
        let address = self.address(&slice);
        Ok(Memory {
            values: wrap(slice),
            address,
        })
    }

    /// The kernels of a file for this GPU.
    fn compiled(&self, source: &'static Source) -> Result<Arc<str>> {
        let (major, minor) = self.0.cuda_stream().context().compute_capability().w()?;
        let capability = 10 * major + minor;
        let known = ARCHITECTURES.iter().rev();
        let Some((_, arch)) = known.into_iter().find(|(c, _)| *c <= capability) else {
            candle_core::bail!(
                "cuda: expected a GPU of compute capability 7.5 or more, got {major}.{minor}"
            )
        };
        let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        let all = all.get_or_insert_default();
        if let Some(text) = all.get(&(source.name, arch)) {
            return Ok(text.clone());
        }
        let text: Arc<str> = compile(source.name, source.text(), arch)
            .map_err(Error::wrap)?
            .into();
        all.insert((source.name, arch), text.clone());
        Ok(text)
    }
}

/// PTX of a file of kernels.
fn compile(
    name: &str,
    text: String,
    arch: &'static str,
) -> std::result::Result<String, CompileError> {
    let options = CompileOptions {
        arch: Some(arch),
        name: Some(format!("{name}.cu")),
        ..CompileOptions::default()
    };
    Ok(compile_ptx_with_opts(text, options)?.to_src())
}

impl Machine for Gpu<'_> {
    type Memory = Memory;

    fn alloc(&self, kind: Kind, n: usize) -> Result<Memory> {
        match kind {
            Kind::F32 => self.memory(n, Values::F32),
            Kind::Bf16 => self.memory(n, Values::Bf16),
            Kind::U32 => self.memory(n, Values::U32),
            Kind::U64 => self.memory(n, Values::U64),
        }
    }

    fn upload(&self, values: &[u32]) -> Result<Memory> {
        let slice = self.0.clone_htod(values)?;
        let address = self.address(&slice);
        Ok(Memory {
            values: Values::U32(slice),
            address,
        })
    }

    fn addresses(&self, views: &[View]) -> Result<Memory> {
        let all: Vec<u64> = views.iter().map(|v| v.address).collect();
        let slice = self.0.clone_htod(&all)?;
        let address = self.address(&slice);
        Ok(Memory {
            values: Values::U64(slice),
            address,
        })
    }

    fn view(&self, memory: &Memory) -> View {
        View {
            address: memory.address,
            kind: match memory.values {
                Values::F32(_) => Kind::F32,
                Values::Bf16(_) => Kind::Bf16,
                Values::U32(_) => Kind::U32,
                Values::U64(_) => Kind::U64,
            },
        }
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let Some(source) = Source::of(launch.kernel) else {
            candle_core::bail!("cuda: no kernel {}", launch.kernel)
        };
        let text = self.compiled(source)?;
        let function = self
            .0
            .get_or_load_custom_func(launch.kernel, source.name, &text)?;
        let mut builder = function.builder();
        for arg in launch.args {
            match arg {
                Arg::View(v) => builder.arg(&v.address),
                Arg::U32(v) => builder.arg(v),
                Arg::U64(v) => builder.arg(v),
                Arg::F32(v) => builder.arg(v),
            };
        }
        // SAFETY: programs give kernels the arguments that they take, and memory of the length that they touch: the emulator runs the
        // same programs and kernels, and checks both.
        unsafe {
            builder.launch(LaunchConfig {
                grid_dim: (launch.blocks, 1, 1),
                block_dim: (launch.threads, 1, 1),
                shared_mem_bytes: 0,
            })
        }
        .w()?;
        Ok(())
    }

    fn product(&self, p: &Product) -> Result<()> {
        let blas = self.0.cublas_handle();
        self.0.cuda_stream().context().bind_to_thread().w()?;
        let operation = |m: &Matrix| {
            if m.transposed {
                sys::cublasOperation_t::CUBLAS_OP_T
            } else {
                sys::cublasOperation_t::CUBLAS_OP_N
            }
        };
        let kind = |m: &Matrix| match m.at.kind {
            Kind::F32 => Ok(sys::cudaDataType_t::CUDA_R_32F),
            Kind::Bf16 => Ok(sys::cudaDataType_t::CUDA_R_16BF),
            other => candle_core::bail!("cuda: expected a product of floats, got {other:?}"),
        };
        let compute = if p.a.at.kind == Kind::F32 && tf32() {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let int = |n: usize| size(n).map(|n| n as i32);
        let beta = 0f32;
        // SAFETY: the matrices lie in memory that the caller keeps; sizes were checked by the programs' tests in the emulator.
        unsafe {
            result::gemm_strided_batched_ex(
                *blas.handle(),
                operation(&p.a),
                operation(&p.b),
                int(p.m)?,
                int(p.n)?,
                int(p.k)?,
                std::ptr::from_ref(&p.alpha).cast(),
                p.a.at.address as *const _,
                kind(&p.a)?,
                int(p.a.column)?,
                p.a.step as i64,
                p.b.at.address as *const _,
                kind(&p.b)?,
                int(p.b.column)?,
                p.b.step as i64,
                std::ptr::from_ref(&beta).cast(),
                p.c.at.address as *mut _,
                kind(&p.c)?,
                int(p.c.column)?,
                p.c.step as i64,
                int(p.batch)?,
                compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(Error::wrap)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::source::SOURCES;
    use super::{ARCHITECTURES, compile};

    /// NVRTC needs no GPU: where it is the real one, it compiles what the GPU machine will.
    #[test]
    fn nvrtc_compiles_every_kernel() {
        let nothing = "extern \"C\" __global__ void nothing() {}".to_string();
        if let Err(e) = compile("nothing", nothing, "compute_75") {
            eprintln!("SKIPPED: the kernels weren't compiled by NVRTC: {e:?}");
            return;
        }
        for source in &SOURCES {
            for (_, arch) in ARCHITECTURES {
                let ptx = compile(source.name, source.text(), arch)
                    .unwrap_or_else(|e| panic!("{} for {arch}: {e:?}", source.name));
                for name in source.names() {
                    let entry = format!(".entry {name}(");
                    assert!(ptx.contains(&entry), "{} has no kernel {name}", source.name);
                }
                println!("{} {arch}: {} bytes", source.name, ptx.len());
            }
        }
    }
}
