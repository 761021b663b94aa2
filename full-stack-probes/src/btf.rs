//! A walker of the kernel's type information (BTF): where fields are, what tracepoints pass.
//!
//! Reads the format of `Documentation/bpf/btf.rst`. Every length and reference is checked: a broken
//! file gives an error, never a wrong offset.

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
const MAX_DEPTH: u32 = 64;

const PTR: u8 = 2;
const ARRAY: u8 = 3;
const STRUCT: u8 = 4;
const UNION: u8 = 5;
const TYPEDEF: u8 = 8;
const VOLATILE: u8 = 9;
const CONST: u8 = 10;
const RESTRICT: u8 = 11;
const FUNC: u8 = 12;
const FUNC_PROTO: u8 = 13;
const TYPE_TAG: u8 = 18;

/// Why BTF cannot be read, or has not what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// Not BTF, or cut short.
    #[error("type information is broken at byte {0}")]
    Broken(usize),
    /// Written for the other byte order.
    #[error("type information is not in this machine's byte order")]
    Endianness,
    /// A reference to a type that does not exist, or that goes round in circles.
    #[error("type {0} is missing or refers to itself")]
    BadType(u32),
    /// No struct of that name.
    #[error("no struct {0}")]
    NoStruct(String),
    /// The struct has no such field.
    #[error("struct {0} has no field {1}")]
    NoField(String, String),
    /// The field is smaller than what would be read.
    #[error("field {field} has {found} bytes, {wanted} expected")]
    Size {
        /// The path.
        field: String,
        /// Its size.
        found: u32,
        /// What was expected.
        wanted: u32,
    },
}

/// Where a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the beginning of the struct; of a bit field, the byte with its first bit.
    pub offset: u32,
    /// Bytes; an array counts as a whole.
    pub size: u32,
    /// Of a bit field: its first bit within the byte, and how many.
    pub bits: Option<(u32, u32)>,
}

/// The type of a tracepoint's argument, as far as programs depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    /// A pointer to a struct of that name.
    Pointer(String),
    /// Anything else.
    Scalar,
}

/// Type information, indexed.
pub struct Btf {
    data: Vec<u8>,
    strings: (usize, usize),
    types: Vec<usize>,
    structs: HashMap<String, u32>,
    tracepoints: HashMap<String, u32>,
    functions: HashMap<String, u32>,
}

#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u8,
    flag: bool,
    members: u32,
    /// `size` or `type`, by kind.
    value: u32,
}

#[derive(Clone, Copy)]
struct Member {
    name: u32,
    ty: u32,
    bit: u32,
    bits: u32,
}

impl Btf {
    /// Indexes type information as the kernel shows it in `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    ///
    /// Where it is broken.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        let magic = u16::from_ne_bytes(bytes(&data, 0)?);
        if magic == MAGIC.swap_bytes() {
            return Err(BtfError::Endianness);
        }
        if magic != MAGIC {
            return Err(BtfError::Broken(0));
        }
        let header = word(&data, 4)? as usize;
        let section = |offset: usize| -> Result<(usize, usize), BtfError> {
            let start = header
                .checked_add(word(&data, offset)? as usize)
                .ok_or(BtfError::Broken(offset))?;
            let end = start
                .checked_add(word(&data, offset + 4)? as usize)
                .ok_or(BtfError::Broken(offset))?;
            if end > data.len() {
                return Err(BtfError::Broken(offset));
            }
            Ok((start, end))
        };
        let (start, end) = section(8)?;
        let strings = section(16)?;

        let mut btf = Self {
            data,
            strings,
            // Type 0 is void.
            types: vec![usize::MAX],
            structs: HashMap::new(),
            tracepoints: HashMap::new(),
            functions: HashMap::new(),
        };
        let mut at = start;
        while at < end {
            let ty = btf.type_at(at)?;
            let id = u32::try_from(btf.types.len()).map_err(|_| BtfError::Broken(at))?;
            btf.types.push(at);
            let length = match ty.kind {
                1 | 14 | 17 => 4,
                ARRAY => 12,
                STRUCT | UNION | 15 | 19 => 12 * ty.members as usize,
                6 | FUNC_PROTO => 8 * ty.members as usize,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return Err(BtfError::Broken(at)),
            };
            match ty.kind {
                STRUCT if ty.name != 0 => {
                    let name = btf.text(ty.name)?.to_owned();
                    btf.structs.entry(name).or_insert(id);
                }
                FUNC => {
                    let name = btf.text(ty.name)?.to_owned();
                    btf.functions.entry(name).or_insert(id);
                }
                TYPEDEF => {
                    if let Some(name) = btf.text(ty.name)?.strip_prefix("btf_trace_") {
                        let name = name.to_owned();
                        btf.tracepoints.insert(name, id);
                    }
                }
                _ => {}
            }
            at += 12 + length;
        }
        if at != end {
            return Err(BtfError::Broken(at));
        }
        Ok(btf)
    }

    /// A field by its path. Anonymous members are followed, an array stands for its first element,
    /// `|` in a step separates names that kernels use for the same field.
    ///
    /// # Errors
    ///
    /// Where the struct or the field is not there.
    pub fn field(&self, name: &str, path: &str) -> Result<Field, BtfError> {
        let missing = || BtfError::NoField(name.to_owned(), path.to_owned());
        let mut ty = *self
            .structs
            .get(name)
            .ok_or_else(|| BtfError::NoStruct(name.to_owned()))?;
        let mut base = 0u32;
        let mut found = None;
        for step in path.split('.') {
            let (container, _) = self.element(ty)?;
            let member = step
                .split('|')
                .find_map(|step| self.member(container, step, 0).transpose())
                .transpose()?
                .ok_or_else(missing)?;
            let bit = base
                .checked_mul(8)
                .and_then(|bit| bit.checked_add(member.bit))
                .ok_or_else(missing)?;
            base = bit / 8;
            ty = member.ty;
            found = Some(Field {
                offset: base,
                size: if member.bits == 0 { self.size(ty)? } else { 1 },
                bits: (member.bits != 0).then_some((bit % 8, member.bits)),
            });
        }
        found.ok_or_else(missing)
    }

    /// A field that must have at least `size` bytes and be no bit field.
    ///
    /// # Errors
    ///
    /// Also where it is smaller, or a bit field.
    pub fn sized_field(&self, name: &str, path: &str, size: u32) -> Result<Field, BtfError> {
        let field = self.field(name, path)?;
        if field.size < size || field.bits.is_some() {
            return Err(BtfError::Size {
                field: format!("{name}.{path}"),
                found: if field.bits.is_some() { 0 } else { field.size },
                wanted: size,
            });
        }
        Ok(field)
    }

    /// What a tracepoint passes to its probes, or `None` where there is no such tracepoint.
    ///
    /// # Errors
    ///
    /// Where its type is broken.
    pub fn tracepoint(&self, name: &str) -> Result<Option<Vec<Argument>>, BtfError> {
        let Some(&id) = self.tracepoints.get(name) else {
            return Ok(None);
        };
        let pointer = self.plain(self.resolve(id)?.value)?;
        let prototype = if pointer.1.kind == PTR {
            self.plain(pointer.1.value)?
        } else {
            pointer
        };
        // The first parameter is the probe's own data.
        self.arguments(prototype, 1).map(Some)
    }

    /// What a kernel function is passed, or `None` where there is no such function.
    ///
    /// # Errors
    ///
    /// Where its type is broken.
    pub fn function(&self, name: &str) -> Result<Option<Vec<Argument>>, BtfError> {
        let Some(&id) = self.functions.get(name) else {
            return Ok(None);
        };
        let prototype = self.plain(self.resolve(id)?.value)?;
        self.arguments(prototype, 0).map(Some)
    }

    /// Which argument of a kernel function has this name, or `None` where there is no such
    /// function or argument.
    ///
    /// # Errors
    ///
    /// Where its type is broken.
    pub fn parameter(&self, function: &str, name: &str) -> Result<Option<usize>, BtfError> {
        let Some(&id) = self.functions.get(function) else {
            return Ok(None);
        };
        let (prototype, ty) = self.plain(self.resolve(id)?.value)?;
        if ty.kind != FUNC_PROTO {
            return Err(BtfError::BadType(prototype));
        }
        for index in 0..ty.members as usize {
            if self.text(word(&self.data, ty.at + 12 + 8 * index)?)? == name {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// The name of a type, as links tell their targets by number.
    #[must_use]
    pub fn name(&self, id: u32) -> Option<&str> {
        self.text(self.resolve(id).ok()?.name).ok()
    }

    fn arguments(&self, prototype: (u32, Type), first: u32) -> Result<Vec<Argument>, BtfError> {
        if prototype.1.kind != FUNC_PROTO {
            return Err(BtfError::BadType(prototype.0));
        }
        let mut arguments = Vec::new();
        for index in first..prototype.1.members {
            let at = prototype.1.at + 12 + 8 * index as usize;
            let (_, ty) = self.plain(word(&self.data, at + 4)?)?;
            arguments.push(if ty.kind == PTR && ty.value != 0 {
                let (_, target) = self.plain(ty.value)?;
                match target.kind {
                    STRUCT | UNION => Argument::Pointer(self.text(target.name)?.to_owned()),
                    _ => Argument::Scalar,
                }
            } else {
                Argument::Scalar
            });
        }
        Ok(arguments)
    }

    /// Looks for a member, also in anonymous ones. Offsets are in bits from the container.
    fn member(&self, container: Type, name: &str, depth: u32) -> Result<Option<Member>, BtfError> {
        if depth > MAX_DEPTH {
            return Err(BtfError::Broken(container.at));
        }
        if container.kind != STRUCT && container.kind != UNION {
            return Ok(None);
        }
        for index in 0..container.members {
            let at = container.at + 12 + 12 * index as usize;
            let raw = word(&self.data, at + 8)?;
            let (bit, bits) = if container.flag {
                (raw & 0x00ff_ffff, raw >> 24)
            } else {
                (raw, 0)
            };
            let member = Member {
                name: word(&self.data, at)?,
                ty: word(&self.data, at + 4)?,
                bit,
                bits,
            };
            if member.name == 0 || self.text(member.name)?.is_empty() {
                let (_, inner) = self.plain(member.ty)?;
                if let Some(found) = self.member(inner, name, depth + 1)? {
                    let bit = found
                        .bit
                        .checked_add(bit)
                        .ok_or(BtfError::Broken(container.at))?;
                    return Ok(Some(Member { bit, ..found }));
                }
            } else if self.text(member.name)? == name {
                return Ok(Some(member));
            }
        }
        Ok(None)
    }

    fn size(&self, id: u32) -> Result<u32, BtfError> {
        let mut count = 1u32;
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let (plain, ty) = self.plain(id)?;
            match ty.kind {
                ARRAY => {
                    id = word(&self.data, ty.at + 12)?;
                    count = count
                        .checked_mul(word(&self.data, ty.at + 20)?)
                        .ok_or(BtfError::BadType(plain))?;
                }
                PTR => return count.checked_mul(8).ok_or(BtfError::BadType(plain)),
                1 | STRUCT | UNION | 6 | 16 | 19 => {
                    return count.checked_mul(ty.value).ok_or(BtfError::BadType(plain));
                }
                _ => return Err(BtfError::BadType(plain)),
            }
        }
        Err(BtfError::BadType(id))
    }

    /// Strips arrays as well as names and qualifiers.
    fn element(&self, id: u32) -> Result<(Type, u32), BtfError> {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let (plain, ty) = self.plain(id)?;
            if ty.kind != ARRAY {
                return Ok((ty, plain));
            }
            id = word(&self.data, ty.at + 12)?;
        }
        Err(BtfError::BadType(id))
    }

    /// Strips names and qualifiers.
    fn plain(&self, id: u32) -> Result<(u32, Type), BtfError> {
        let mut id = id;
        for _ in 0..MAX_DEPTH {
            let ty = self.resolve(id)?;
            match ty.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG if ty.value != 0 => id = ty.value,
                _ => return Ok((id, ty)),
            }
        }
        Err(BtfError::BadType(id))
    }

    fn resolve(&self, id: u32) -> Result<Type, BtfError> {
        if id == 0 {
            return Err(BtfError::BadType(0));
        }
        let at = *self.types.get(id as usize).ok_or(BtfError::BadType(id))?;
        self.type_at(at)
    }

    fn type_at(&self, at: usize) -> Result<Type, BtfError> {
        let info = word(&self.data, at + 4)?;
        Ok(Type {
            at,
            name: word(&self.data, at)?,
            kind: ((info >> 24) & 0x1f) as u8,
            flag: info >> 31 != 0,
            members: info & 0xffff,
            value: word(&self.data, at + 8)?,
        })
    }

    fn text(&self, offset: u32) -> Result<&str, BtfError> {
        let (start, end) = self.strings;
        let from = start
            .checked_add(offset as usize)
            .ok_or(BtfError::Broken(start))?;
        let rest = self.data.get(from..end).ok_or(BtfError::Broken(from))?;
        let length = rest
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(BtfError::Broken(from))?;
        rest.get(..length)
            .and_then(|text| std::str::from_utf8(text).ok())
            .ok_or(BtfError::Broken(from))
    }
}

fn word(data: &[u8], at: usize) -> Result<u32, BtfError> {
    bytes(data, at).map(u32::from_ne_bytes)
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N], BtfError> {
    at.checked_add(N)
        .and_then(|end| data.get(at..end))
        .and_then(|slice| slice.try_into().ok())
        .ok_or(BtfError::Broken(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes type information type by type.
    #[derive(Default)]
    struct Writer {
        types: Vec<u8>,
        strings: Vec<u8>,
        count: u32,
    }

    impl Writer {
        fn new() -> Self {
            Self {
                strings: vec![0],
                ..Self::default()
            }
        }

        fn text(&mut self, text: &str) -> u32 {
            if text.is_empty() {
                return 0;
            }
            let at = self.strings.len() as u32;
            self.strings.extend(text.as_bytes());
            self.strings.push(0);
            at
        }

        fn ty(&mut self, name: &str, kind: u8, flag: bool, value: u32, rest: &[u32]) -> u32 {
            let name = self.text(name);
            let members = match kind {
                STRUCT | UNION => rest.len() / 3,
                FUNC_PROTO => rest.len() / 2,
                _ => 0,
            };
            let info = (u32::from(flag) << 31) | (u32::from(kind) << 24) | members as u32;
            for word in [name, info, value].iter().chain(rest) {
                self.types.extend(word.to_ne_bytes());
            }
            self.count += 1;
            self.count
        }

        fn int(&mut self, name: &str, size: u32) -> u32 {
            self.ty(name, 1, false, size, &[size * 8])
        }

        fn container(
            &mut self,
            kind: u8,
            name: &str,
            size: u32,
            members: &[(&str, u32, u32)],
        ) -> u32 {
            let members: Vec<u32> = members
                .iter()
                .flat_map(|(name, ty, bits)| [self.text(name), *ty, *bits])
                .collect();
            self.ty(name, kind, true, size, &members)
        }

        fn bytes(&self) -> Vec<u8> {
            let mut data = Vec::new();
            data.extend(MAGIC.to_ne_bytes());
            data.extend([1, 0]);
            let types = self.types.len() as u32;
            for word in [24, 0, types, types, self.strings.len() as u32] {
                data.extend(word.to_ne_bytes());
            }
            data.extend(&self.types);
            data.extend(&self.strings);
            data
        }
    }

    /// A struct as kernels have them: an anonymous union in an anonymous struct, an array of
    /// structs, a bit field, a name that changed.
    fn example() -> Writer {
        let mut w = Writer::new();
        let u32_ = w.int("unsigned int", 4);
        let u8_ = w.int("unsigned char", 1);
        let u32_name = w.ty("u32", TYPEDEF, false, u32_, &[]);
        let volatile = w.ty("", VOLATILE, false, u32_name, &[]);
        let inner = w.container(UNION, "", 4, &[("a", volatile, 0), ("b", u8_, 0)]);
        let anonymous = w.container(STRUCT, "", 8, &[("x", u32_, 0), ("", inner, 32)]);
        let sample = w.container(STRUCT, "sample", 8, &[("t", u32_, 0), ("v", u32_, 32)]);
        let array = w.ty("", ARRAY, false, 0, &[sample, u32_, 3]);
        let minmax = w.container(STRUCT, "minmax", 24, &[("s", array, 0)]);
        let sock = w.container(
            STRUCT,
            "sock",
            64,
            &[
                ("first", u32_, 0),
                ("", anonymous, 64),
                ("rtt_min", minmax, 128),
                ("bits", u8_, (5 << 24) | 323),
                ("__state", u32_, 352),
            ],
        );
        let pointer = w.ty("", PTR, false, sock, &[]);
        let void = w.ty("", PTR, false, 0, &[]);
        let prototype = w.ty(
            "",
            FUNC_PROTO,
            false,
            0,
            &[0, void, 0, pointer, 0, u32_, 0, void],
        );
        let function = w.ty("", PTR, false, prototype, &[]);
        w.ty("btf_trace_tcp_probe", TYPEDEF, false, function, &[]);
        let prototype = w.ty("", FUNC_PROTO, false, u32_, &[0, pointer, 0, u32_]);
        w.ty("tcp_set_state", FUNC, false, prototype, &[]);
        w
    }

    #[test]
    fn finds_fields_through_anonymous_members_arrays_and_other_names() {
        let btf = Btf::parse(example().bytes()).unwrap();
        let offset = |path| btf.field("sock", path).map(|field| field.offset);
        assert_eq!(offset("first"), Ok(0));
        assert_eq!(offset("x"), Ok(8));
        assert_eq!(offset("a"), Ok(12));
        assert_eq!(offset("b"), Ok(12));
        assert_eq!(offset("rtt_min.s.v"), Ok(20));
        assert_eq!(offset("state|__state"), Ok(44));
        let bits = btf.field("sock", "bits").unwrap();
        assert_eq!((bits.offset, bits.bits), (40, Some((3, 5))));
        assert!(matches!(offset("nothing"), Err(BtfError::NoField(..))));
        assert!(matches!(offset("first.x"), Err(BtfError::NoField(..))));
        assert!(matches!(btf.field("none", "x"), Err(BtfError::NoStruct(_))));
    }

    #[test]
    fn refuses_fields_that_are_smaller_than_what_is_read() {
        let btf = Btf::parse(example().bytes()).unwrap();
        assert!(btf.sized_field("sock", "a", 4).is_ok());
        assert!(btf.sized_field("sock", "rtt_min", 24).is_ok());
        assert!(matches!(
            btf.sized_field("sock", "b", 4),
            Err(BtfError::Size { found: 1, .. })
        ));
        assert!(matches!(
            btf.sized_field("sock", "bits", 1),
            Err(BtfError::Size { found: 0, .. })
        ));
    }

    #[test]
    fn tells_what_a_tracepoint_passes() {
        let btf = Btf::parse(example().bytes()).unwrap();
        assert_eq!(
            btf.tracepoint("tcp_probe"),
            Ok(Some(vec![
                Argument::Pointer("sock".to_owned()),
                Argument::Scalar,
                Argument::Scalar
            ]))
        );
        assert_eq!(btf.tracepoint("none"), Ok(None));
        assert_eq!(
            btf.function("tcp_set_state"),
            Ok(Some(vec![
                Argument::Pointer("sock".to_owned()),
                Argument::Scalar
            ]))
        );
        assert_eq!(btf.function("none"), Ok(None));
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_an_error_or_harmless() {
        let whole = example().bytes();
        for length in 0..whole.len() {
            assert!(Btf::parse(whole[..length].to_vec()).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut broken = whole.clone();
                broken[at] ^= flip;
                if let Ok(btf) = Btf::parse(broken) {
                    for path in ["first", "a", "rtt_min.s.v", "bits", "__state"] {
                        let _ = btf.sized_field("sock", path, 4);
                    }
                    let _ = btf.tracepoint("tcp_probe");
                }
            }
        }
    }

    #[test]
    fn types_that_refer_to_themselves_end() {
        let mut w = Writer::new();
        let itself = w.count + 1;
        w.ty("loop", TYPEDEF, false, itself, &[]);
        let nested = w.count + 1;
        w.container(STRUCT, "nest", 4, &[("", nested, 0)]);
        w.container(STRUCT, "user", 4, &[("field", itself, 0)]);
        let btf = Btf::parse(w.bytes()).unwrap();
        assert!(btf.field("nest", "x").is_err());
        assert!(btf.field("user", "field").is_err());
    }

    #[test]
    fn the_other_byte_order_is_told_apart() {
        let mut data = example().bytes();
        data.swap(0, 1);
        assert_eq!(Btf::parse(data).err(), Some(BtfError::Endianness));
    }

    #[test]
    fn reads_this_machines_kernel() {
        let Ok(data) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            println!("SKIPPED: no BTF");
            return;
        };
        let btf = Btf::parse(data).unwrap();
        let snd_una = btf.sized_field("tcp_sock", "snd_una", 4).unwrap();
        let snd_nxt = btf.sized_field("tcp_sock", "snd_nxt", 4).unwrap();
        assert_ne!(snd_una.offset, snd_nxt.offset);
        let arguments = btf.tracepoint("tcp_probe").unwrap().unwrap();
        assert_eq!(arguments[0], Argument::Pointer("sock".to_owned()));
        assert_eq!(arguments[1], Argument::Pointer("sk_buff".to_owned()));
    }
}
