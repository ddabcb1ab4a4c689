//! Streams: what is put in runs in its order, on a thread of its own, beside the caller.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::device::{Code, Device};
use crate::machine::Launch;

/// A place in the host's memory, which whoever named it keeps until the copy is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostPlace(pub usize);

/// What a stream does.
#[derive(Debug, Clone)]
pub(super) enum Task {
    Launch(Arc<Launch>),
    ToDevice {
        to: u64,
        from: HostPlace,
        bytes: usize,
    },
    ToHost {
        to: HostPlace,
        from: u64,
        bytes: usize,
    },
    Within {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Fill {
        to: u64,
        pattern: Vec<u8>,
        count: usize,
    },
    /// Memory is as if it were fresh.
    Poison {
        at: u64,
        bytes: usize,
    },
    /// An event happens, for the so-manieth time.
    Happens(Arc<Event>, u64),
    /// The stream waits for one.
    Waits(Arc<Event>, u64),
}

#[derive(Debug, Default)]
struct Happened {
    /// How often it was recorded, and how often that happened.
    recorded: u64,
    done: u64,
    /// The stream's clock then.
    at: Duration,
    failed: Option<i32>,
}

/// An event.
#[derive(Debug, Default)]
pub(super) struct Event {
    state: Mutex<Happened>,
    changed: Condvar,
}

impl Event {
    fn lock(&self) -> MutexGuard<'_, Happened> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Records it once more; gives the count.
    pub fn record(&self) -> u64 {
        let mut state = self.lock();
        state.recorded += 1;
        state.recorded
    }

    /// How often it was recorded.
    pub fn recorded(&self) -> u64 {
        self.lock().recorded
    }

    pub fn happen(&self, count: u64, at: Duration, failed: Option<Code>) {
        let mut state = self.lock();
        state.done = state.done.max(count);
        state.at = at;
        state.failed = failed.map(|c| c.0);
        self.changed.notify_all();
    }

    /// Waits until it happened as often.
    pub fn wait(&self, count: u64) -> Result<Duration, Code> {
        let mut state = self.lock();
        while state.done < count {
            state = self.changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        state.failed.map_or(Ok(state.at), |code| Err(Code(code)))
    }

    /// Whether all that was recorded happened.
    pub fn is_done(&self) -> bool {
        let state = self.lock();
        state.done >= state.recorded
    }
}

struct Queue {
    /// Tasks that were put in, and that were done.
    put: u64,
    done: u64,
    failed: Option<Code>,
}

/// A stream.
pub(super) struct Stream {
    pub context: usize,
    device: Arc<Device>,
    sender: Mutex<Option<Sender<(Task, Instant)>>>,
    queue: Arc<(Mutex<Queue>, Condvar)>,
    /// What is being captured.
    capture: Mutex<Option<Vec<Task>>>,
}

impl Stream {
    pub fn new(device: Arc<Device>, sms: u32, context: usize) -> Self {
        let (sender, receiver) = channel();
        let queue = Arc::new((
            Mutex::new(Queue {
                put: 0,
                done: 0,
                failed: None,
            }),
            Condvar::new(),
        ));
        let (its_device, its_queue) = (Arc::clone(&device), Arc::clone(&queue));
        std::thread::spawn(move || serve(&its_device, sms, &receiver, &its_queue));
        Stream {
            context,
            device,
            sender: Mutex::new(Some(sender)),
            queue,
            capture: Mutex::new(None),
        }
    }

    fn capture(&self) -> MutexGuard<'_, Option<Vec<Task>>> {
        self.capture.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn begin_capture(&self) -> Result<(), Code> {
        let mut capture = self.capture();
        if capture.is_some() {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        *capture = Some(vec![]);
        Ok(())
    }

    pub fn end_capture(&self) -> Result<Vec<Task>, Code> {
        self.capture().take().ok_or(Code::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Puts tasks in, or into the graph that is being captured.
    pub fn put(&self, tasks: impl IntoIterator<Item = Task>) -> Result<(), Code> {
        self.device.state()?;
        if let Some(captured) = self.capture().as_mut() {
            captured.extend(tasks);
            return Ok(());
        }
        let sender = self.sender.lock().unwrap_or_else(|e| e.into_inner());
        let sender = sender.as_ref().ok_or(Code::INVALID_HANDLE)?;
        for task in tasks {
            let mut queue = lock(&self.queue.0);
            sender
                .send((task, Instant::now()))
                .map_err(|_| Code::LAUNCH_FAILED)?;
            queue.put += 1;
        }
        Ok(())
    }

    /// Waits for all that was put in.
    pub fn wait(&self) -> Result<(), Code> {
        if self.capture().is_some() {
            return Err(Code::STREAM_CAPTURE_UNSUPPORTED);
        }
        let (queue, changed) = &*self.queue;
        let mut state = lock(queue);
        while state.done < state.put {
            state = changed.wait(state).unwrap_or_else(|e| e.into_inner());
        }
        let failed = state.failed.take();
        drop(state);
        failed.map_or_else(|| self.device.state(), Err)
    }

    pub fn is_done(&self) -> bool {
        let state = lock(&self.queue.0);
        state.done >= state.put
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// Does what a stream is told, until it is gone.
fn serve(device: &Device, sms: u32, tasks: &Receiver<(Task, Instant)>, queue: &(Mutex<Queue>, Condvar)) {
    let mut clock = Clock::new(device);
    while let Ok((task, put)) = tasks.recv() {
        // Whatever happens, those who wait hear of it.
        let ran = catch_unwind(AssertUnwindSafe(|| run(device, sms, &task, put, &mut clock)));
        let result = ran.unwrap_or(Err(Code::LAUNCH_FAILED));
        let mut state = lock(&queue.0);
        state.done += 1;
        if let Err(code) = result {
            state.failed.get_or_insert(code);
        }
        queue.1.notify_all();
    }
}

/// A stream's time: the sum of what its tasks are modelled to take, or, where time is stretched, the host's.
struct Clock<'a> {
    device: &'a Device,
    modelled: Duration,
    /// When the stream's last task was done by stretched time.
    free: Instant,
}

impl<'a> Clock<'a> {
    fn new(device: &'a Device) -> Self {
        Clock {
            device,
            modelled: Duration::ZERO,
            free: Instant::now(),
        }
    }

    /// A task that was put in then takes so long: where time is stretched, it is not done before that.
    fn took(&mut self, put: Instant, modelled: Duration) {
        self.modelled += modelled;
        let Some(stretched) = modelled.checked_mul(self.device.stretch()) else {
            return;
        };
        if stretched.is_zero() {
            return;
        }
        let end = self.free.max(put) + stretched;
        let late = end.elapsed();
        self.device.late(late);
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        self.free = end + late;
    }

    fn now(&self) -> Duration {
        match self.device.stretch() {
            0 => self.modelled,
            _ => self.device.began.elapsed(),
        }
    }

    fn wait_until(&mut self, at: Duration) {
        self.modelled = self.modelled.max(at);
    }
}

fn run(device: &Device, sms: u32, task: &Task, put: Instant, clock: &mut Clock<'_>) -> Result<(), Code> {
    /// Bytes a microsecond between host and device, modelled: PCIe 5.
    const BYTES_A_US: u64 = 50_000;
    let moved = |bytes: usize| Duration::from_micros(1 + bytes as u64 / BYTES_A_US);
    match task {
        Task::Launch(launch) => clock.took(put, device.launch(launch, sms)?),
        Task::ToDevice { to, from, bytes } => {
            let content = super::exports::host_bytes(*from, *bytes);
            device.memory(|memory| memory.write(*to, &content))?;
            clock.took(put, moved(*bytes));
        }
        Task::ToHost { to, from, bytes } => {
            let mut content = vec![0; *bytes];
            device.memory(|memory| memory.read(*from, &mut content))?;
            super::exports::to_host(*to, &content);
            clock.took(put, moved(*bytes));
        }
        Task::Within { to, from, bytes } => device.memory(|memory| memory.copy(*to, *from, *bytes))?,
        Task::Fill { to, pattern, count } => device.memory(|memory| memory.fill(*to, pattern, *count))?,
        Task::Poison { at, bytes } => device.memory(|memory| memory.poison(*at, *bytes))?,
        Task::Happens(event, count) => event.happen(*count, clock.now(), device.state().err()),
        Task::Waits(event, count) => clock.wait_until(event.wait(*count)?),
    }
    Ok(())
}

/// Events and streams by their handles.
pub(super) type Table<T> = HashMap<usize, Arc<T>>;
