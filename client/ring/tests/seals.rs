//! What nobody can do to shared memory once it is sealed, and what is not believed to be such memory.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod common;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use tramline_ring::{ReaderLink, RingIdentity, RingSpec, Writer, verify_page, verify_ring};

fn ring() -> (Writer, RingIdentity) {
    let spec = RingSpec::sized(3, 1000, 8).unwrap();
    (Writer::create(&spec, 8).unwrap(), spec.identity())
}

fn map(fd: &impl AsFd, access: ProtFlags, flags: MapFlags) -> rustix::io::Result<*mut std::ffi::c_void> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    unsafe { rustix::mm::mmap(std::ptr::null_mut(), 4096, access, flags, fd, 0) }
}

/// Tries whatever could change sealed memory of `size` bytes through this descriptor; nothing may work.
fn nothing_works(fd: &impl AsFd, size: u64) {
    assert_eq!(rustix::fs::ftruncate(fd, 0), Err(Errno::PERM), "shrink");
    assert_eq!(rustix::fs::ftruncate(fd, size * 2), Err(Errno::PERM), "grow");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert_eq!(rustix::fs::fallocate(fd, punch, 0, 4096), Err(Errno::PERM), "punch a hole");
    assert_eq!(rustix::fs::fallocate(fd, FallocateFlags::empty(), size, 4096), Err(Errno::PERM), "extend");
    assert_eq!(rustix::io::pwrite(fd, b"x", 0), Err(Errno::PERM), "write");
    let both = ProtFlags::READ | ProtFlags::WRITE;
    assert_eq!(map(fd, both, MapFlags::SHARED).err(), Some(Errno::PERM), "map writable");
    assert_eq!(rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE), Err(Errno::PERM), "seal further");

    let readable = map(fd, ProtFlags::READ, MapFlags::SHARED).unwrap();
    // SAFETY: the range is the mapping made above, which nothing else refers to.
    let widened = unsafe { rustix::mm::mprotect(readable, 4096, MprotectFlags::READ | MprotectFlags::WRITE) };
    assert_eq!(widened, Err(Errno::ACCESS), "mprotect");
    // SAFETY: as above.
    let removed = unsafe { rustix::mm::madvise(readable, 4096, rustix::mm::Advice::LinuxRemove) };
    assert!(removed.is_err(), "MADV_REMOVE");
    // SAFETY: as above; not used afterwards.
    unsafe { rustix::mm::munmap(readable, 4096) }.unwrap();
}

/// The same through every new descriptor that /proc gives for this one.
fn nothing_works_through_proc(fd: &impl AsFd, size: u64) {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let again = rustix::fs::open(&path, OFlags::RDWR, Mode::empty());
    // The inode's mode lets anybody open it again who holds it; the seals hold all the same.
    nothing_works(&again.expect("a memfd that is held can be opened again"), size);
    assert!(rustix::fs::open(&path, OFlags::RDWR | OFlags::TRUNC, Mode::empty()).is_err(), "O_TRUNC");
    let reading = rustix::fs::open(&path, OFlags::RDONLY, Mode::empty()).unwrap();
    let both = ProtFlags::READ | ProtFlags::WRITE;
    assert_eq!(map(&reading, both, MapFlags::SHARED).err(), Some(Errno::ACCESS), "map a read-only one");
    assert_eq!(rustix::fs::ftruncate(&reading, 0), Err(Errno::INVAL), "shrink a read-only one");
}

#[test]
fn sealed_memory_cannot_be_changed_by_its_owner_either() {
    let (mut writer, identity) = ring();
    verify_ring(writer.memory(), &identity).unwrap();
    let size = identity.memory_bytes().unwrap();
    nothing_works(&writer.memory(), size);
    nothing_works_through_proc(&writer.memory(), size);

    // What it mapped before sealing stays writable for it, but cannot be taken away from under the readers.
    let mut loan = writer.try_loan(4096, 0).unwrap();
    let page = loan.bytes_mut();
    page.fill(7);
    assert_eq!(page.as_ptr().addr() % 4096, 0, "the arena begins with a page");
    // SAFETY: the range is the loan's; if the page were taken away it would read as zeros.
    let removed =
        unsafe { rustix::mm::madvise(page.as_mut_ptr().cast(), 4096, rustix::mm::Advice::LinuxRemove) };
    assert_eq!(removed, Err(Errno::PERM), "MADV_REMOVE of the owner's own mapping");
    assert!(page.iter().all(|byte| *byte == 7));
    verify_ring(writer.memory(), &identity).unwrap();
}

/// Not a test by itself: what the next one runs as another user, with the memory in the place of its input.
#[test]
fn role_of_another_user() {
    let Some(size) = std::env::var("ROLE_SIZE").ok().and_then(|size| size.parse().ok()) else { return };
    let held = std::io::stdin();
    nothing_works(&held, size);
    nothing_works_through_proc(&held, size);
    println!("nothing worked as user {}", rustix::process::getuid().as_raw());
}

#[test]
fn sealed_memory_cannot_be_changed_by_who_receives_it_whatever_the_user() {
    let (mut writer, identity) = ring();
    let mut loan = writer.try_loan(4096, 0).unwrap();
    loan.bytes_mut().fill(9);
    let own = rustix::process::getuid().as_raw();
    let users = if own == 0 { vec![0, 20_003] } else { vec![own] };
    for user in users {
        let memory = writer.memory().try_clone_to_owned().unwrap();
        let output = Command::new("/proc/self/exe")
            .args(["role_of_another_user", "--exact", "--nocapture"])
            .env("ROLE_SIZE", identity.memory_bytes().unwrap().to_string())
            .uid(user)
            .stdin(Stdio::from(memory))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("nothing worked as user {user}")), "{said}{output:?}");
    }
    if own != 0 {
        common::skipped("root", "what another user can do with sealed memory");
    }
    assert!(loan.bytes().iter().all(|byte| *byte == 9));
    verify_ring(writer.memory(), &identity).unwrap();
}

#[test]
fn holes_are_found_although_blocks_behind_the_end_make_up_for_them() {
    let (writer, identity) = ring();
    let size = identity.memory_bytes().unwrap();
    let mut header = vec![0; 4096];
    rustix::io::pread(writer.memory(), &mut header, 0).unwrap();
    // The header is there, the rest is not; as many pages behind the end are reserved as are missing.
    let fd = memfd("hollow", MemfdFlags::ALLOW_SEALING);
    rustix::fs::ftruncate(&fd, size).unwrap();
    rustix::io::pwrite(&fd, &header, 0).unwrap();
    rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, size, size).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SEALS).unwrap();
    let stat = rustix::fs::fstat(&fd).unwrap();
    assert_eq!(u64::try_from(stat.st_size).unwrap(), size);
    assert!(u64::try_from(stat.st_blocks).unwrap() * 512 >= size, "the count of blocks alone would not tell");
    let error = verify_ring(fd.as_fd(), &identity).unwrap_err();
    assert!(error.is_claim() && error.to_string().contains("every page"), "{error}");

    // One missing page is enough, wherever it is.
    for hole in [4096, size / 8192 * 4096, size - 4096] {
        let fd = memfd("one hole", MemfdFlags::ALLOW_SEALING);
        let mut whole = vec![0; usize::try_from(size).unwrap()];
        whole[..4096].copy_from_slice(&header);
        rustix::io::pwrite(&fd, &whole, 0).unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&fd, punch, hole, 4096).unwrap();
        rustix::fs::fallocate(&fd, FallocateFlags::KEEP_SIZE, size, 4096).unwrap();
        rustix::fs::fcntl_add_seals(&fd, SEALS).unwrap();
        refused(&fd, &identity, "a hole");
    }
}

#[test]
fn memory_that_is_still_being_resized_is_not_sealed_against_it() {
    let (_, identity) = ring();
    let size = identity.memory_bytes().unwrap();
    for missing in [SealFlags::GROW, SealFlags::SHRINK, SealFlags::FUTURE_WRITE, SealFlags::SEAL] {
        let fd = memfd("growing", MemfdFlags::ALLOW_SEALING);
        rustix::io::pwrite(&fd, &vec![0; usize::try_from(size).unwrap()], 0).unwrap();
        rustix::fs::fcntl_add_seals(&fd, SEALS - missing).unwrap();
        refused(&fd, &identity, "a seal is missing");
    }
}

fn memfd(name: &str, flags: MemfdFlags) -> OwnedFd {
    rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | flags).unwrap()
}

const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE).union(SealFlags::SEAL);

fn refused(fd: impl AsFd, identity: &RingIdentity, why: &str) {
    let error = verify_ring(fd.as_fd(), identity).expect_err(why);
    assert!(error.is_claim(), "{why}: {error}");
    assert!(verify_page(fd.as_fd(), 15).is_err(), "{why}");
}

#[test]
fn what_is_not_sealed_memory_of_the_right_size_is_refused() {
    let (writer, identity) = ring();
    let size = identity.memory_bytes().unwrap();

    let unsealed = memfd("unsealed", MemfdFlags::ALLOW_SEALING);
    rustix::fs::ftruncate(&unsealed, size).unwrap();
    rustix::fs::fallocate(&unsealed, FallocateFlags::empty(), 0, size).unwrap();
    refused(&unsealed, &identity, "no seals");
    rustix::fs::fcntl_add_seals(&unsealed, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    refused(&unsealed, &identity, "writable for others");

    let sparse = memfd("sparse", MemfdFlags::ALLOW_SEALING);
    rustix::fs::ftruncate(&sparse, size).unwrap();
    rustix::fs::fcntl_add_seals(&sparse, SEALS).unwrap();
    refused(&sparse, &identity, "holes, which readers would have to pay for");

    let larger = RingIdentity { arena_bytes: identity.arena_bytes + 4096, ..identity };
    refused(writer.memory(), &larger, "shorter than declared");
    let smaller = RingIdentity { arena_bytes: identity.arena_bytes - 4096, ..identity };
    refused(writer.memory(), &smaller, "longer than declared");
    let other = RingIdentity { stream: 4, ..identity };
    refused(writer.memory(), &other, "another stream's");
    let other = RingIdentity { generation: 1, ..identity };
    refused(writer.memory(), &other, "another generation");
    for descriptors in [0, 1, 3, 1 << 21, u32::MAX] {
        refused(
            writer.memory(),
            &RingIdentity { descriptors, ..identity },
            "an impossible number of descriptors",
        );
    }
    for arena_bytes in [0, 1, 4095, u64::MAX, u64::MAX - 4095, 1 << 40] {
        refused(writer.memory(), &RingIdentity { arena_bytes, ..identity }, "an impossible arena");
    }

    let (_, page) = ReaderLink::new().allocate_slot().unwrap();
    let page = page.unwrap();
    verify_page(page.fd.as_fd(), page.slots).unwrap();
    assert!(verify_page(page.fd.as_fd(), page.slots + 1).unwrap_err().is_claim());
    assert!(verify_ring(page.fd.as_fd(), &identity).unwrap_err().is_claim(), "a page is no ring");
}

#[test]
fn what_is_no_memfd_at_all_is_refused() {
    let (_, identity) = ring();
    let size = identity.memory_bytes().unwrap();
    refused(File::open("/proc/self/exe").unwrap(), &identity, "a regular file");
    refused(File::open("/dev/null").unwrap(), &identity, "a device");
    refused(File::open("/dev/zero").unwrap(), &identity, "a device of zeros");
    refused(rustix::pipe::pipe().unwrap().0, &identity, "a pipe");
    refused(std::os::unix::net::UnixStream::pair().unwrap().0, &identity, "a socket");
    let name = format!("/dev/shm/tramline-test-{}", std::process::id());
    if let Ok(file) = File::options().read(true).write(true).create_new(true).open(&name) {
        std::fs::remove_file(&name).unwrap();
        file.set_len(size).unwrap();
        refused(&file, &identity, "a file on tmpfs, which has no seals");
    }
}

#[test]
fn huge_pages_are_refused_where_the_machine_has_them() {
    let (_, identity) = ring();
    match rustix::fs::memfd_create(
        "huge",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB,
    ) {
        Ok(huge) => {
            let _ = rustix::fs::ftruncate(&huge, 2 << 20);
            rustix::fs::fcntl_add_seals(&huge, SEALS).unwrap();
            refused(&huge, &identity, "hugetlb");
        }
        Err(error) => eprintln!("NOT TRIED: this kernel makes no hugetlb memfd: {error}"),
    }
}
