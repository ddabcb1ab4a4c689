//! Memory of the device that is used again: a request allocates nothing.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use crate::driver::{CudaFault, DeviceMemory, Primary};

/// Bytes that are kept free for later, at most; beyond it, memory goes back to the device.
const MAX_KEPT: usize = 1 << 30;

/// Pieces that are free, by their size.
#[derive(Debug, Default)]
pub struct Pool(Mutex<Free>);

#[derive(Debug, Default)]
struct Free {
    pieces: HashMap<usize, Vec<DeviceMemory>>,
    bytes: usize,
}

/// A piece that goes back to its pool when it is dropped.
#[derive(Debug)]
pub struct Pooled {
    memory: Option<DeviceMemory>,
    pool: Weak<Pool>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Free> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A piece of at least so many bytes; sizes are rounded up to powers of two.
    pub fn take(self: &Arc<Self>, primary: &Arc<Primary>, bytes: usize) -> Result<Pooled, CudaFault> {
        let size = bytes.max(256).next_power_of_two();
        let kept = {
            let mut free = self.lock();
            let piece = free.pieces.get_mut(&size).and_then(Vec::pop);
            free.bytes -= piece.as_ref().map_or(0, |_| size);
            piece
        };
        let memory = match kept {
            Some(memory) => {
                memory.forget(0, size);
                memory
            }
            None => match DeviceMemory::new(primary, size) {
                // What is kept free of other sizes may be what lacks.
                Err(fault) if fault.is_full() && self.give_back() => DeviceMemory::new(primary, size)?,
                made => made?,
            },
        };
        Ok(Pooled {
            memory: Some(memory),
            pool: Arc::downgrade(self),
        })
    }

    /// Gives all free pieces back to the device. `false`: there was none.
    pub fn give_back(&self) -> bool {
        let gone = std::mem::take(&mut *self.lock());
        !gone.pieces.is_empty()
    }
}

impl Deref for Pooled {
    type Target = DeviceMemory;

    fn deref(&self) -> &DeviceMemory {
        self.memory
            .as_ref()
            .unwrap_or_else(|| unreachable!("it is there until it is dropped"))
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let Some((memory, pool)) = self.memory.take().zip(self.pool.upgrade()) else {
            return;
        };
        let size = memory.size();
        let mut free = pool.lock();
        if free.bytes + size <= MAX_KEPT {
            free.bytes += size;
            free.pieces.entry(size).or_default().push(memory);
        }
    }
}
