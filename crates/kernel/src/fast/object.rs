//! The compiled programs and their maps, in the kernel.

use std::fmt;
use std::path::Path;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::SchedClassifier;
use aya::{Btf, Ebpf, EbpfLoader};
use aya_obj::btf::BtfKind;

use super::layout::{Settings, TunnelBytes, Weights};
use crate::bpf::layout::AddressBytes;
use crate::bpf::{failed, load, map, program};
use crate::{Error, Result};

static COMPILED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/fast.bpf.o"));

/// The functions of the kernel that the programs call, and the numbers by which `bpf/conntrack.h` calls them.
const FUNCTIONS: [(&str, i32); 3] = [
    ("bpf_skb_ct_lookup", 0x7fff_0001),
    ("bpf_ct_change_timeout", 0x7fff_0002),
    ("bpf_ct_release", 0x7fff_0003),
];

/// `BPF_JMP | BPF_CALL` (linux/bpf.h).
const CALL: u8 = 0x85;
/// The source register of an instruction that calls a function of the kernel (linux/bpf.h).
const BPF_PSEUDO_KFUNC_CALL: u8 = 2;
/// An instruction's length in bytes, and what instructions are aligned to.
const INSTRUCTION: usize = 8;

/// The maps that others than this process need: the CNI plugin takes pods out of them.
pub(super) const PINNED: [&str; 2] = ["endpoints", "generations"];

/// Where a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    FromPod,
    ToPod,
    FromWire,
    ToWire,
}

impl Hook {
    pub(super) const ALL: [Hook; 4] = [Hook::FromPod, Hook::ToPod, Hook::FromWire, Hook::ToWire];

    pub(super) fn name(self) -> &'static str {
        match self {
            Hook::FromPod => "from_pod",
            Hook::ToPod => "to_pod",
            Hook::FromWire => "from_wire",
            Hook::ToWire => "to_wire",
        }
    }
}

/// The programs, loaded, and their maps.
pub(super) struct Object {
    programs: Ebpf,
    pub(super) endpoints: HashMap<MapData, AddressBytes, [u32; 2]>,
    pub(super) ranges4: LpmTrie<MapData, [u8; 4], u32>,
    pub(super) ranges6: LpmTrie<MapData, [u8; 16], u32>,
    /// The underlay addresses of other nodes.
    pub(super) hosts: HashMap<MapData, AddressBytes, u32>,
    pub(super) tunnels: Array<MapData, TunnelBytes>,
    pub(super) generations: Array<MapData, u64>,
    pub(super) settings: Array<MapData, Settings>,
    pub(super) weights: Array<MapData, Weights>,
    /// By the numbers of `enum counter`.
    pub(super) counters: PerCpuArray<MapData, u64>,
}

impl Object {
    /// Loads the programs, with maps of their own. Some are pinned in the directory, if there is one.
    pub(super) fn load(pins: Option<&Path>) -> Result<Object> {
        let what = "load the programs of the fast path";
        let btf = Btf::from_sys_fs().map_err(failed(what))?;
        let object = linked(COMPILED, &btf)?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf));
        for map in PINNED {
            if let Some(directory) = pins {
                loader.map_pin_path(map, directory.join(map));
            }
        }
        let mut programs = loader.load(aligned(&object)).map_err(failed(what))?;
        for hook in Hook::ALL {
            load(&mut programs, hook.name(), format!("load the program {} of the fast path", hook.name()))?;
        }
        Ok(Object {
            endpoints: map(&mut programs, "endpoints")?,
            ranges4: map(&mut programs, "ranges4")?,
            ranges6: map(&mut programs, "ranges6")?,
            hosts: map(&mut programs, "hosts")?,
            tunnels: map(&mut programs, "tunnels")?,
            generations: map(&mut programs, "generations")?,
            settings: map(&mut programs, "settings")?,
            weights: map(&mut programs, "hash_weights")?,
            counters: map(&mut programs, "counters")?,
            programs,
        })
    }

    /// A map that only the programs use.
    #[cfg(test)]
    pub(super) fn map<T>(&mut self, name: &str) -> T
    where
        T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
    {
        map(&mut self.programs, name).unwrap()
    }

    pub(super) fn program(&mut self, hook: Hook) -> Result<&mut SchedClassifier> {
        program(&mut self.programs, hook.name())
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("programs", &self.programs).finish_non_exhaustive()
    }
}

/// The object with calls of the kernel's own functions, which aya does not know. Behind the copy there is room to align
/// it.
///
/// To the compiler they are helpers with numbers that there are not; the kernel knows them by the number of their BTF type.
fn linked(object: &[u8], btf: &Btf) -> Result<Vec<u8>> {
    let mut numbers = Vec::new();
    for (name, placeholder) in FUNCTIONS {
        let missing = |_| Error::Missing {
            what: "use the fast path".to_owned(),
            missing: format!("the kernel function {name} (CONFIG_NF_CONNTRACK and CONFIG_DEBUG_INFO_BTF)"),
        };
        let id = btf.id_by_type_name_kind(name, BtfKind::Func).map_err(missing)?;
        numbers.push((placeholder, id));
    }
    let mut bytes = vec![0; object.len() + INSTRUCTION];
    let at = bytes.as_ptr().align_offset(INSTRUCTION);
    let copy = bytes.get_mut(at..at + object.len()).unwrap_or_default();
    copy.copy_from_slice(object);
    for instruction in copy.chunks_exact_mut(INSTRUCTION) {
        let &mut [code, registers, _, _, a, b, c, d] = instruction else { continue };
        let called = i32::from_ne_bytes([a, b, c, d]);
        if (code, registers) != (CALL, 0) {
            continue;
        }
        if let Some((_, id)) = numbers.iter().find(|(placeholder, _)| *placeholder == called) {
            instruction[1] = registers_of(BPF_PSEUDO_KFUNC_CALL);
            instruction[4..].copy_from_slice(&id.to_ne_bytes());
        }
    }
    Ok(bytes)
}

/// What is in the copy.
fn aligned(copy: &[u8]) -> &[u8] {
    let at = copy.as_ptr().align_offset(INSTRUCTION);
    copy.get(at..at + copy.len() - INSTRUCTION).unwrap_or_default()
}

/// The second byte of an instruction, with the source register and without a destination.
fn registers_of(source: u8) -> u8 {
    if cfg!(target_endian = "little") { source << 4 } else { source }
}
