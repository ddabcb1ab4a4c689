//! Instructions as the machine executes them.
//!
//! Registers of up to 32 bits, of 64 bits, and predicates lie in three files; an instruction names a register by its place there.

/// Place of a register of up to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct R32(pub u16);
/// Place of a register of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct R64(pub u16);
/// Place of a predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pred(pub u16);

/// A source of up to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S32 {
    /// A register.
    Reg(R32),
    /// A number.
    Imm(u32),
}

/// A source of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum S64 {
    /// A register.
    Reg(R64),
    /// A number.
    Imm(u64),
}

/// A register of either width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reg {
    /// Up to 32 bits.
    R32(R32),
    /// 64 bits.
    R64(R64),
}

/// What a thread can ask about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// `%tid`; 0: x, 1: y, 2: z.
    Tid(u8),
    /// `%ntid`
    Ntid(u8),
    /// `%ctaid`
    Ctaid(u8),
    /// `%nctaid`
    Nctaid(u8),
    /// `%laneid`
    Lane,
}

/// Operations on two sources of up to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Bin32 {
    Add,
    Sub,
    MulLo,
    MulHiU,
    MulHiS,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
    AddF,
    /// Rounds towards 0.
    AddFRz,
    SubF,
    MulF,
    DivF,
    MinF,
    MaxF,
    CopySign,
    /// Two halves: the first source above.
    HalvesF,
}

/// Operations on two sources of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Bin64 {
    Add,
    Sub,
    MulLo,
    MulHiU,
    DivU,
    DivS,
    RemU,
    RemS,
    MinU,
    MinS,
    MaxU,
    MaxS,
    And,
    Or,
    Xor,
}

/// Shifts of 64 bits by 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shift64 {
    Left,
    RightU,
    RightS,
}

/// How a float becomes whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Round {
    Nearest,
    Zero,
    Down,
    Up,
}

/// Operations on one source of up to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Un32 {
    Move,
    NegS,
    AbsS,
    Not,
    Not16,
    NegF,
    AbsF,
    /// 2 to the power of it.
    Ex2,
    Lg2,
    Rcp,
    Rsqrt,
    Sqrt,
    Tanh,
    Sin,
    Cos,
    /// Limits to 0 to 1; NaN becomes 0.
    Sat,
    Whole(Round),
    ZeroExtend8,
    ZeroExtend16,
    SignExtend8,
    SignExtend16,
    FloatOfU32,
    FloatOfS32,
    /// From the lower 16 bits.
    FloatOfU16,
    /// From the lower 16 bits.
    FloatOfS16,
    U32OfFloat(Round),
    S32OfFloat(Round),
    HalfOfFloat,
    FloatOfHalf,
}

/// Operations on one source of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Un64 {
    Move,
    NegS,
    AbsS,
    Not,
}

/// From 32 to 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Widen {
    Zero,
    Sign,
    S64OfFloat(Round),
    U64OfFloat(Round),
}

/// From 64 to 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Narrow {
    Low,
    Low16,
    FloatOfS64,
    FloatOfU64,
}

/// A comparison; `Unordered` ones of floats hold for NaN, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    EqUnordered,
    NeUnordered,
    LtUnordered,
    LeUnordered,
    GtUnordered,
    GeUnordered,
    Nan,
    Ordered,
}

/// How operands of a comparison are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CompareAs {
    U16,
    S16,
    U32,
    S32,
    F32,
}

/// A logical operation on predicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Logic {
    And,
    Or,
    Xor,
}

/// Where memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Space {
    Global,
    Shared,
    Param,
    /// Global or shared, by the address.
    Generic,
}

/// An address: a register or 0, and an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The register.
    pub base: Option<Reg>,
    /// What is added to it.
    pub offset: i64,
}

/// Elements that are read or written at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Where.
    pub space: Space,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub bytes: u8,
    /// Whether what is read fills larger registers with its sign.
    pub signed: bool,
    /// The address.
    pub address: Address,
    /// The registers, one an element.
    pub registers: Vec<Reg>,
    /// For writing: numbers in the place of registers.
    pub numbers: Vec<Option<u64>>,
}

/// What an atomic operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AtomicKind {
    AddU32,
    AddF32,
    MaxU32,
    MinU32,
    Exchange,
    CompareExchange,
}

/// Where a shuffle takes its value from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// An operation.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Op {
    Un32(Un32, R32, S32),
    Un64(Un64, R64, S64),
    Bin32(Bin32, R32, S32, S32),
    Bin64(Bin64, R64, S64, S64),
    Shift64(Shift64, R64, S64, S32),
    /// The whole product of two 32-bit numbers; with signs or without.
    MulWide(bool, R64, S32, S32),
    MadWide(bool, R64, S32, S32, S64),
    Mad32(R32, S32, S32, S32),
    Mad64(R64, S64, S64, S64),
    Fma(R32, S32, S32, S32),
    /// Rounds down.
    FmaRm(R32, S32, S32, S32),
    /// a inserted into b at a place, so many bits.
    Bfi32(R32, S32, S32, S32, S32),
    Bfi64(R64, S64, S64, S32, S32),
    /// Any function of three bits, by its table.
    Lop3(R32, S32, S32, S32, u8),
    /// Bytes of two sources, by a selector.
    Prmt(R32, S32, S32, S32),
    Widen(Widen, R64, S32),
    Narrow(Narrow, R32, S64),
    /// Low and high 16 bits.
    Pack32(R32, S32, S32),
    Unpack32(R32, R32, S32),
    Pack64(R64, S32, S32),
    Unpack64(R32, R32, S64),
    Special(R32, Special),
    Set32(Compare, CompareAs, Pred, S32, S32),
    /// With signs or without.
    Set64(Compare, bool, Pred, S64, S64),
    Logic(Logic, Pred, Pred, Pred),
    NotPred(Pred, Pred),
    MovePred(Pred, Option<Pred>, bool),
    Select32(R32, S32, S32, Pred),
    Select64(R64, S64, S64, Pred),
    Load(Access),
    Store(Access),
    Atomic(AtomicKind, Option<R32>, Space, Address, S32, Option<S32>),
    /// Bytes to shared memory, of which the first so many come from global memory and the rest is 0.
    CopyAsync {
        to: Address,
        from: Address,
        bytes: u8,
        taken: Option<S32>,
    },
    CommitCopies,
    /// Until at most so many groups are under way.
    WaitCopies(u32),
    LoadMatrices {
        to: Vec<R32>,
        from: Address,
        transposed: bool,
    },
    /// m16n8k16 of halves, sums in fp32.
    MultiplyAdd {
        to: [R32; 4],
        a: [S32; 4],
        b: [S32; 2],
        c: [S32; 4],
    },
    Shuffle {
        how: Shuffle,
        to: R32,
        valid: Option<Pred>,
        from: S32,
        lane: S32,
        clamp: S32,
        members: S32,
    },
    Barrier,
    WarpBarrier(S32),
    Fence,
    Branch(usize),
    Return,
    Nothing,
    Trap,
}

/// An instruction of a kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// What it does.
    pub op: Op,
    /// Lanes in which the predicate does not have this value leave it out.
    pub guard: Option<(Pred, bool)>,
    /// Source file's number and line; 0: not known.
    pub source: (u32, u32),
}

/// A kernel, ready to run.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Its instructions.
    pub code: Vec<Instruction>,
    /// For each branch: where its lanes meet again; the code's length: at the end.
    pub meets: Vec<usize>,
    /// Registers of up to 32 bits.
    pub registers32: usize,
    /// Registers of 64 bits.
    pub registers64: usize,
    /// Predicates.
    pub predicates: usize,
    /// Bytes of parameters, each with its offset.
    pub params: Vec<(usize, usize)>,
    /// Bytes of shared memory that it declares.
    pub shared: usize,
    /// Threads of a block at most, where it says so.
    pub most_threads: Option<u32>,
    /// Names of source files.
    pub files: Vec<(u32, String)>,
}

impl Kernel {
    /// Bytes of all parameters.
    pub fn param_bytes(&self) -> usize {
        self.params.last().map_or(0, |(offset, bytes)| offset + bytes)
    }
}
