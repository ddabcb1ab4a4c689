//! Small kernels on the machine.

use graft_softgpu::machine::{Counts, Fault, Launch, Memory, run};
use graft_softgpu::ptx::parse;

/// A kernel with two pointers as parameters, `in` and `out`, in `%rd1` and `%rd2`, the thread's number in `%r1` and its places there, of four
/// bytes, in `%rd3` and `%rd4`.
pub fn kernel(shared: usize, body: &str) -> String {
    let shared = match shared {
        0 => String::new(),
        bytes => format!(".shared .align 16 .b8 tile[{bytes}];"),
    };
    format!(
        "
        .version 9.0
        .target sm_80
        .address_size 64
        .visible .entry test(.param .u64 in, .param .u64 out)
        {{
            .reg .pred %p<20>;
            .reg .b16 %h<20>;
            .reg .b32 %r<60>;
            .reg .f32 %f<20>;
            .reg .b64 %rd<20>;
            {shared}
            ld.param.u64 %rd1, [in];
            ld.param.u64 %rd2, [out];
            mov.u32 %r1, %tid.x;
            mul.wide.u32 %rd5, %r1, 4;
            add.s64 %rd3, %rd1, %rd5;
            add.s64 %rd4, %rd2, %rd5;
            {body}
            ret;
        }}"
    )
}

/// Runs the kernel of a text; gives what it wrote, of four bytes for each of 64 threads at most.
pub fn launch(
    text: &str,
    input: &[u32],
    blocks: u32,
    threads: u32,
    seed: u64,
) -> Result<(Vec<u32>, Counts), Box<Fault>> {
    let module = parse(text).unwrap_or_else(|e| panic!("{e}"));
    let mut memory = Memory::new(1 << 20);
    let bytes: Vec<u8> = input.iter().flat_map(|n| n.to_le_bytes()).collect();
    let from = memory.allocate(bytes.len() as u64).unwrap();
    memory.write(from, &bytes).unwrap();
    let size = 4 * threads.max(64) as usize;
    let to = memory.allocate(size as u64).unwrap();
    memory.write(to, &vec![0; size]).unwrap();
    let launch = Launch {
        kernel: module.kernels[0].clone(),
        grid: [blocks, 1, 1],
        threads: [threads, 1, 1],
        params: [from.to_le_bytes(), to.to_le_bytes()].concat(),
        dynamic_shared: 0,
    };
    let counts = run(&launch, &mut memory, seed)?;
    let mut out = vec![0; size];
    memory.read(to, &mut out).unwrap();
    let words = out
        .chunks_exact(4)
        .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
    Ok((words.collect(), counts))
}
