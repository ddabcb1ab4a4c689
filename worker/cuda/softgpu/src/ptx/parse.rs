//! From a text to kernels.

use std::collections::HashMap;
use std::sync::Arc;

use super::decode::{Names, Value, decode};
use super::instruction::{Instruction, Kernel, Op, Pred, R32, R64, Reg};
use super::place::reconvergence;
use super::text::{Kind, Statement, statements, without_comments};
use super::{Module, PtxError};

/// Registers of a kernel at most, of each kind.
const MAX_REGISTERS: usize = 1 << 15;

/// Bytes of shared memory and of parameters of a kernel at most.
const MAX_BYTES: usize = 1 << 20;

/// Reads a module.
pub fn parse(text: &str) -> Result<Module, PtxError> {
    let text = without_comments(text);
    let all = statements(&text);
    let mut module = Module::default();
    let mut at = 0;
    while at < all.len() {
        let statement = &all[at];
        at += 1;
        match &statement.kind {
            Kind::Text(text) if text.starts_with(".file") => {
                if let Some((number, name)) = file(text) {
                    module.files.push((number, name));
                }
            }
            Kind::Text(text) if text.contains(".entry") => {
                let (kernel, next) = Reader::new(text).kernel(statement, &all, at)?;
                module.kernels.push(kernel);
                at = next;
            }
            Kind::Text(text) if text.starts_with(".section") => {
                while at < all.len() && all[at].kind != Kind::Close {
                    at += 1;
                }
                at += 1;
            }
            Kind::Text(text)
                if [".version", ".target", ".address_size"]
                    .iter()
                    .any(|d| text.starts_with(d)) => {}
            Kind::Text("") => {}
            other => {
                return Err(wrong(
                    statement,
                    "not a kernel, and nothing that belongs to one",
                    &show(other),
                ));
            }
        }
    }
    // Files are named at the end of the text.
    for kernel in &mut module.kernels {
        if let Some(kernel) = Arc::get_mut(kernel) {
            kernel.files.clone_from(&module.files);
        }
    }
    Ok(module)
}

fn show(kind: &Kind<'_>) -> String {
    match kind {
        Kind::Text(text) => (*text).to_owned(),
        Kind::Label(name) => format!("{name}:"),
        Kind::Open => "{".to_owned(),
        Kind::Close => "}".to_owned(),
    }
}

fn wrong(statement: &Statement<'_>, what: &str, text: &str) -> PtxError {
    PtxError {
        line: statement.line,
        what: what.to_owned(),
        text: text.chars().take(200).collect(),
    }
}

/// `.file 1 "name"`
fn file(text: &str) -> Option<(u32, String)> {
    let mut parts = text.splitn(3, char::is_whitespace);
    parts.next()?;
    let number = parts.next()?.parse().ok()?;
    let path = parts.next()?.split('"').nth(1)?;
    let name = path.rsplit('/').next().unwrap_or(path);
    Some((number, name.to_owned()))
}

#[derive(Default)]
struct Reader {
    names: Names,
    labels: HashMap<String, usize>,
    registers: [usize; 3],
    shared: usize,
    most_threads: Option<u32>,
    params: Vec<(usize, usize)>,
    name: String,
}

impl Reader {
    fn new(header: &str) -> Self {
        let after = header.split(".entry").nth(1).unwrap_or("").trim();
        let name = after.split(['(', ' ', '\n', '\t']).next().unwrap_or("");
        let mut reader = Reader {
            name: name.to_owned(),
            ..Reader::default()
        };
        reader.parameters(header);
        reader
    }

    fn parameters(&mut self, header: &str) {
        let inside = header.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
        let mut end = 0;
        for text in inside.map_or("", |(list, _)| list).split(',') {
            if let Some((name, align, bytes)) = declared(text).filter(|(_, _, bytes)| *bytes <= MAX_BYTES) {
                let offset = usize::next_multiple_of(end, align.max(1));
                self.names.insert(name.to_owned(), Value::Place(offset as u64));
                self.params.push((offset, bytes));
                end = offset + bytes;
            }
        }
    }

    fn kernel(
        mut self,
        header: &Statement<'_>,
        all: &[Statement<'_>],
        mut at: usize,
    ) -> Result<(Arc<Kernel>, usize), PtxError> {
        let mut depth = 0usize;
        let mut body = vec![];
        let mut source = (0, 0);
        // First what is declared and where labels stand, then the instructions.
        loop {
            let statement = all
                .get(at)
                .ok_or_else(|| wrong(header, "a kernel without an end", &self.name))?;
            at += 1;
            match &statement.kind {
                Kind::Open => depth += 1,
                Kind::Close if depth <= 1 => break,
                Kind::Close => depth -= 1,
                Kind::Label(name) => {
                    self.labels.insert((*name).to_owned(), body.len());
                }
                Kind::Text("") => {}
                Kind::Text(text) if text.starts_with(".loc") => {
                    let mut numbers = text.split([' ', '\t', ',']).filter_map(|w| w.parse::<u32>().ok());
                    source = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                }
                Kind::Text(text) if text.starts_with('.') => self.directive(statement, text)?,
                Kind::Text(text) => body.push((statement, *text, source)),
            }
        }
        let mut code = vec![];
        for (statement, text, source) in &body {
            let (op, guard) = self
                .instruction(text)
                .map_err(|what| wrong(statement, &what, text))?;
            code.push(Instruction {
                op,
                guard,
                source: *source,
            });
        }
        code.push(Instruction {
            op: Op::Return,
            guard: None,
            source: (0, 0),
        });
        let meets = reconvergence(&code);
        let [registers32, registers64, predicates] = self.registers;
        Ok((
            Arc::new(Kernel {
                name: self.name,
                code,
                meets,
                registers32,
                registers64,
                predicates,
                params: self.params,
                shared: self.shared,
                most_threads: self.most_threads,
                files: vec![],
            }),
            at,
        ))
    }

    fn directive(&mut self, statement: &Statement<'_>, text: &str) -> Result<(), PtxError> {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match word {
            ".reg" => self
                .register(rest)
                .ok_or_else(|| wrong(statement, "registers", text)),
            ".maxntid" => {
                let sizes = rest.split(',').map(|n| n.trim().parse::<u32>().unwrap_or(1));
                self.most_threads = Some(sizes.product());
                Ok(())
            }
            ".shared" => {
                let declared = declared(text).filter(|(_, _, bytes)| *bytes <= MAX_BYTES);
                let (name, align, bytes) = declared.ok_or_else(|| wrong(statement, "shared memory", text))?;
                let offset = self.shared.next_multiple_of(align.max(1));
                self.names.insert(name.to_owned(), Value::Place(offset as u64));
                self.shared = offset + bytes;
                Ok(())
            }
            ".pragma" | ".minnctapersm" | ".reqntid" => Ok(()),
            _ => Err(wrong(statement, "a directive that is not known here", text)),
        }
    }

    /// `.b32 %r<10>`, or `.b32 a, b`.
    fn register(&mut self, text: &str) -> Option<()> {
        let (kind, names) = text.trim().split_once(char::is_whitespace)?;
        let file = match kind {
            ".pred" => 2,
            ".b64" | ".u64" | ".s64" | ".f64" => 1,
            ".b8" | ".b16" | ".u16" | ".s16" | ".f16" | ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" => 0,
            _ => return None,
        };
        for name in names.split(',') {
            let name = name.trim();
            let (stem, count) = match name.split_once('<') {
                Some((stem, count)) => (stem, Some(count.trim_end_matches('>').parse::<usize>().ok()?)),
                None => (name, None),
            };
            for number in 0..count.unwrap_or(1) {
                let place = self.registers[file];
                if place >= MAX_REGISTERS {
                    return None;
                }
                let register = u16::try_from(place).ok()?;
                self.registers[file] += 1;
                let value = match file {
                    0 => Value::Register(Reg::R32(R32(register))),
                    1 => Value::Register(Reg::R64(R64(register))),
                    _ => Value::Predicate(Pred(register)),
                };
                let full = count.map_or_else(|| stem.to_owned(), |_| format!("{stem}{number}"));
                self.names.insert(full, value);
            }
        }
        Some(())
    }

    fn instruction(&self, text: &str) -> Result<(Op, Option<(Pred, bool)>), String> {
        let (guard, rest) = match text.strip_prefix('@') {
            Some(guarded) => {
                let (name, rest) = guarded
                    .split_once(char::is_whitespace)
                    .ok_or("a guard without an instruction")?;
                let (name, wanted) = name.strip_prefix('!').map_or((name, true), |n| (n, false));
                match self.names.get(name) {
                    Some(Value::Predicate(p)) => (Some((*p, wanted)), rest.trim()),
                    _ => return Err(format!("{name} is no predicate")),
                }
            }
            None => (None, text),
        };
        Ok((decode(rest, &self.names, &self.labels)?, guard))
    }
}

/// `.shared .align 16 .b8 name[24576]`: its name, alignment and bytes.
fn declared(text: &str) -> Option<(&str, usize, usize)> {
    let mut align = None;
    let mut each = None;
    let mut words = text.split_whitespace().peekable();
    let mut name = None;
    while let Some(word) = words.next() {
        match word {
            ".align" => align = words.next()?.parse().ok(),
            ".b8" | ".u8" | ".s8" => each = Some(1),
            ".b16" | ".u16" | ".s16" | ".f16" => each = Some(2),
            ".b32" | ".u32" | ".s32" | ".f32" => each = Some(4),
            ".b64" | ".u64" | ".s64" | ".f64" => each = Some(8),
            other if !other.starts_with('.') => name = Some(other),
            _ => {}
        }
    }
    let each = each?;
    let (name, count) = match name?.split_once('[') {
        Some((name, count)) => (name, count.trim_end_matches(']').parse::<usize>().ok()?),
        None => (name?, 1),
    };
    Some((name, align.unwrap_or(each), each.checked_mul(count)?))
}
