use std::collections::HashMap;
use std::convert::Infallible;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use tlog_tiles::{HashReader as _, TileHashReader, TileReader};

use super::proof::{consistency, inclusion, is_consistent, root_by_inclusion};
use super::tile::{Builder, TileId};
use super::*;

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The leaves of the tests of Certificate Transparency's reference implementation.
const LEAVES: [&str; 8] = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
];

/// The roots over the first 0 to 8 of them.
const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

/// A tree whose tiles are in memory.
#[derive(Default)]
struct Log {
    builder: Builder,
    tiles: HashMap<(u8, u64), Vec<Hash>>,
}

impl Log {
    fn push(&mut self, leaf: &[u8]) {
        self.builder.push(leaf_hash(leaf), |id, hashes| {
            assert_eq!(self.tiles.insert((id.level, id.index), hashes.to_vec()), None);
        });
    }

    /// A tile as a tree of any size up to ours has it.
    fn tile(&self, id: TileId) -> Vec<Hash> {
        let mut partial = self.builder.partial();
        let found = match self.tiles.get(&(id.level, id.index)) {
            Some(hashes) => hashes.as_slice(),
            None => {
                let same = |other: &TileId| (other.level, other.index) == (id.level, id.index);
                partial.find(|(other, _)| same(other)).unwrap().1
            }
        };
        found[..usize::from(id.width)].to_vec()
    }

    fn node(&self, size: u64) -> impl FnMut(Node) -> Result<Hash, Infallible> + '_ {
        move |wanted| {
            let found = tile::node(wanted, size, &mut |id| Ok::<_, Infallible>(self.tile(id)));
            Ok(found.unwrap().expect("the tree has it"))
        }
    }

    fn root(&self, size: u64) -> Hash {
        super::root(size, &mut self.node(size)).unwrap()
    }
}

/// Tiles as the oracle asks for them.
struct Served<'a>(&'a Log);

impl TileReader for Served<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[tlog_tiles::Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let bytes = |wanted: &tlog_tiles::Tile| {
            let path = wanted.path();
            let id = TileId::parse(path.strip_prefix("tile/8/").unwrap()).unwrap();
            assert_eq!(format!("tile/8/{}", id.path()), path);
            tile::bytes_of(&self.0.tile(id))
        };
        Ok(tiles.iter().map(bytes).collect())
    }

    fn save_tiles(&self, _: &[tlog_tiles::Tile], _: &[Vec<u8>]) {}
}

#[test]
fn the_published_roots_come_out() {
    let mut log = Log::default();
    for (size, root) in ROOTS.iter().enumerate() {
        assert_eq!(hex(&log.builder.root()), *root);
        assert_eq!(hex(&log.root(size as u64)), *root);
        if let Some(leaf) = LEAVES.get(size) {
            log.push(&unhex(leaf));
        }
    }
}

#[test]
fn the_published_paths_come_out() {
    let mut log = Log::default();
    LEAVES.iter().for_each(|leaf| log.push(&unhex(leaf)));
    let path = |index, size| inclusion(index, size, &mut log.node(size)).unwrap();
    let of = |hashes: &[Hash]| hashes.iter().map(hex).collect::<Vec<_>>();
    assert_eq!(
        of(&path(0, 8)),
        [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
        ]
    );
    assert_eq!(
        of(&path(2, 3)),
        ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]
    );
    let between = |before, after| consistency(before, after, &mut log.node(after)).unwrap();
    assert_eq!(
        of(&between(2, 5)),
        [
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
        ]
    );
    assert_eq!(
        of(&between(6, 7)),
        [
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"
        ]
    );
}

/// A sequence that looks random and is always the same.
fn random(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % below
}

/// Sizes around what makes a tile full, some at random, and the largest.
fn sizes(seed: &mut u64) -> Vec<u64> {
    let mut sizes = vec![0, 1, 2, 3, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 100_000];
    sizes.extend((0..12).map(|_| random(seed, 100_000)));
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

#[test]
fn two_other_implementations_agree_about_logs_of_up_to_100_000_leaves() {
    let mut seed = 0x9e37_79b9_7f4a_7c15;
    let mut log = Log::default();
    let mut oracle = MemoryBackedTree::<sha2::Sha256, Vec<u8>>::new();
    let mut before = 0;
    for size in sizes(&mut seed) {
        for at in log.builder.size()..size {
            let leaf = vec![at as u8; random(&mut seed, 40) as usize];
            log.push(&leaf);
            oracle.push(leaf);
        }
        let root = log.builder.root();
        assert_eq!(root, log.root(size), "tiles give the root of {size}");
        if size == 0 {
            assert_eq!(root, empty_root());
            continue;
        }
        assert_eq!(root.as_slice(), oracle.root().as_bytes().as_slice(), "root of {size}");
        let served = Served(&log);
        let reader = TileHashReader::new(size, tlog_tiles::Hash(root), &served);
        for index in [0, size - 1, random(&mut seed, size), random(&mut seed, size)] {
            let leaf = leaf_hash(oracle.get(index as usize).unwrap());
            let path = inclusion(index, size, &mut log.node(size)).unwrap();
            assert_eq!(path.as_flattened(), oracle.prove_inclusion(index as usize).as_bytes());
            // It fetches our tiles and believes them only if they lead to the root.
            let other = tlog_tiles::prove_record(size, index, &reader).unwrap();
            assert_eq!(path, other.iter().map(|hash| hash.0).collect::<Vec<_>>());
            assert_eq!(root_by_inclusion(leaf, index, size, &path), Some(root));
            check_that_other_paths_fail(leaf, index, size, &path, root);
        }
        for old in [before, random(&mut seed, size), 1, size] {
            let path = consistency(old, size, &mut log.node(size)).unwrap();
            let old_root = log.root(old);
            assert!(is_consistent((old, old_root), (size, root), &path), "{old} in {size}");
            if old == 0 || old == size {
                continue;
            }
            let theirs = oracle.prove_consistency((size - old) as usize);
            assert_eq!(path.as_flattened(), theirs.as_bytes(), "{old} in {size}");
            let other = tlog_tiles::prove_tree(size, old, &reader).unwrap();
            assert_eq!(path, other.iter().map(|hash| hash.0).collect::<Vec<_>>());
            check_that_other_trees_fail((old, old_root), (size, root), &path);
        }
        let stored = tlog_tiles::stored_hash_index(0, size - 1);
        assert_eq!(reader.read_hashes(&[stored]).unwrap().len(), 1);
        before = size;
    }
}

fn check_that_other_paths_fail(leaf: Hash, index: u64, size: u64, path: &[Hash], root: Hash) {
    let leads =
        |leaf, index, size, path: &[Hash]| root_by_inclusion(leaf, index, size, path) == Some(root);
    assert!(!leads([7; 32], index, size, path));
    assert!(!leads(leaf, size, size, path));
    assert!(!leads(leaf, index, size, &[path, &[[1; 32]]].concat()));
    for at in 0..path.len() {
        let mut other = path.to_vec();
        other[at][at % 32] ^= 1;
        assert!(!leads(leaf, index, size, &other));
        other.remove(at);
        assert!(!leads(leaf, index, size, &other));
    }
}

fn check_that_other_trees_fail(old: (u64, Hash), new: (u64, Hash), path: &[Hash]) {
    assert!(!is_consistent((old.0, [7; 32]), new, path));
    assert!(!is_consistent(old, (new.0, [7; 32]), path));
    assert!(!is_consistent((new.0 + 1, old.1), new, path));
    assert!(!is_consistent(old, new, &[path, &[[1; 32]]].concat()));
    for at in 0..path.len() {
        let mut other = path.to_vec();
        other[at][at % 32] ^= 1;
        assert!(!is_consistent(old, new, &other));
        other.remove(at);
        assert!(!is_consistent(old, new, &other));
    }
}

#[test]
fn paths_of_tiles_are_those_of_the_specification() {
    let id = |level, index, width| TileId { level, index, width };
    for (tile, path) in [
        (id(0, 0, 256), "0/000"),
        (id(0, 1_234_067, 256), "0/x001/x234/067"),
        (id(2, 1_000, 17), "2/x001/000.p/17"),
    ] {
        assert_eq!(tile.path(), path);
        assert_eq!(TileId::parse(path), Some(tile));
    }
    for wrong in [
        "0/1",
        "0/x001",
        "0/000.p/0",
        "0/000.p/256",
        "00/000",
        "8/000",
        "0/x000/001",
        "0/001/000",
        "0/000.p/05",
        "0/+12",
        "entries/000",
        "",
        "0/x001/x234/067/",
        "0/000.p/1.p/1",
    ] {
        assert_eq!(TileId::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn a_tree_has_the_partial_tiles_of_the_specification() {
    let of = |size| tile::partial_tiles(size).map(|id| id.path()).collect::<Vec<_>>();
    assert_eq!(of(70_000), ["0/273.p/112", "1/001.p/17", "2/000.p/1"]);
    assert_eq!(of(256), ["1/000.p/1"]);
    assert!(of(0).is_empty());
    assert_eq!(tile::tile_at(70_000, 0, 273), Some(TileId { level: 0, index: 273, width: 112 }));
    assert_eq!(tile::tile_at(70_000, 0, 274), None);
}
