"""Which system calls a confined program may make: what Python and its standard library need, and nothing else.

A list of what is allowed, not of what is refused: a call that nobody thought of, or that a newer kernel has, is refused
too. Some calls are allowed for some arguments only. Here the list is made into instructions for the kernel;
:mod:`~onelayer.tasks.graders.filters` puts them in place. Man pages: seccomp(2), syscalls(2).

The filter has two parts, because the kernel takes time to look through a long one and each program is a new process: the
long one is put on a worker once, and also leaves it the few calls by which it confines programs. All that it forks have
it too. The short one takes these few away from a program.
"""

import errno
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache

# By name, the number on x86_64 and on aarch64, where there is one. Generic numbers: asm-generic/unistd.h of Linux.
_NUMBERS = """
read:0:63 write:1:64 readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69 pwritev:296:70
preadv2:327:286 pwritev2:328:287 lseek:8:62 close:3:57 close_range:436:436 dup:32:23 dup2:33:- dup3:292:24 pipe:22:-
pipe2:293:59 open:2:- openat:257:56 creat:85:- stat:4:- fstat:5:80 lstat:6:- newfstatat:262:79 statx:332:291
access:21:- faccessat:269:48 faccessat2:439:439 getdents:78:- getdents64:217:61 readlink:89:- readlinkat:267:78
getcwd:79:17 chdir:80:49 fchdir:81:50 ftruncate:77:46 fallocate:285:47 fsync:74:82 fdatasync:75:83 sendfile:40:71
copy_file_range:326:285 umask:95:166 mkdir:83:- mkdirat:258:34 rmdir:84:- unlink:87:- unlinkat:263:35 rename:82:-
renameat:264:38 renameat2:316:276 link:86:- linkat:265:37 symlink:88:- symlinkat:266:36 mknod:133:- mknodat:259:33
statfs:137:43 fstatfs:138:44 fcntl:72:25 ioctl:16:29 getxattr:191:8 lgetxattr:192:9 fgetxattr:193:10 listxattr:194:11
llistxattr:195:12 flistxattr:196:13 chmod:90:- fchmod:91:52 fchmodat:268:53 fchmodat2:452:452 utime:132:- utimes:235:-
utimensat:280:88 futimesat:261:- truncate:76:45 mmap:9:222 munmap:11:215 mremap:25:216 mprotect:10:226 brk:12:214
madvise:28:233 msync:26:227 clone:56:220 fork:57:- vfork:58:- exit:60:93 exit_group:231:94 wait4:61:260 waitid:247:95
getpid:39:172 getppid:110:173 gettid:186:178 getpgid:121:155 getpgrp:111:- getsid:124:156 setsid:112:157
setpgid:109:154 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getgroups:115:158 getresuid:118:148
getresgid:120:150 futex:202:98 set_robust_list:273:99 set_tid_address:218:96 rseq:334:293 arch_prctl:158:-
prctl:157:167 sched_yield:24:124 sched_getaffinity:204:123 sched_getparam:143:121 sched_getscheduler:145:120
sched_get_priority_max:146:125 sched_get_priority_min:147:126 getpriority:140:141 getrlimit:97:163 setrlimit:160:164
prlimit64:302:261 getrusage:98:165 times:100:153 sysinfo:99:179 uname:63:160 getrandom:318:278 getcpu:309:168
rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136 rt_sigtimedwait:128:137
rt_sigsuspend:130:133 sigaltstack:131:132 pause:34:- kill:62:129 tkill:200:130 tgkill:234:131 restart_syscall:219:128
nanosleep:35:101 clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201:-
getitimer:36:102 setitimer:38:103 alarm:37:- timerfd_create:283:85 timerfd_settime:286:86 timerfd_gettime:287:87
select:23:- pselect6:270:72 poll:7:- ppoll:271:73 epoll_create:213:- epoll_create1:291:20 epoll_ctl:233:21
epoll_wait:232:- epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284:- eventfd2:290:19 socketpair:53:199 sendto:44:206
recvfrom:45:207 sendmsg:46:211 recvmsg:47:212 shutdown:48:210 getsockopt:55:209 setsockopt:54:208 getsockname:51:204
getpeername:52:205
"""
_WORKER_NUMBERS = """
unshare:272:97 setns:308:268 mount:165:40 chown:92:- fchownat:260:54 setgroups:116:159 setresuid:117:147
setresgid:119:149 capset:126:91 landlock_create_ruleset:444:444 landlock_add_rule:445:445 landlock_restrict_self:446:446
"""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MODES = frozenset("chmod fchmod fchmodat fchmodat2".split())  # noqa: SIM905
"""Calls that change the mode of any file of the same user, whether or not Landlock lets it be opened."""
TIMES = frozenset("utime utimes utimensat futimesat".split())  # noqa: SIM905
"""Calls that change the times of any file of the same user, and of any that everyone may write to."""
TRUNCATE = frozenset(["truncate"])
"""Cuts off any file that the user may write to, where Landlock is older than version 3."""
SIGNALS = frozenset("kill tkill tgkill".split())  # noqa: SIM905

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE, _UNKNOWN, _PRETEND = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ERRNO
_ALL_BITS = 0xFFFFFFFF
_FIRST_COMMON = 424  # from here on all machines have the same numbers, and libraries do without what is not there
_X32_CALLS = 0x40000000
_NEW_NAMESPACES = 0x7E020000
_NAME = (15, 16)  # prctl: set and get the name of a thread
_AF_UNIX, _NO_STREAM = 1, (0, *range(2, 16))  # socketpair
_TRUNCATING = (0x203, (0x200, 0x203))  # O_TRUNC without opening to write, which Landlock before version 3 lets pass
# fcntl: copies of descriptors, their flags, looking at locks, sizes of pipes, seals. Not: who gets a signal, leases.
_FCNTL = (0, 1, 2, 3, 4, 5, 36, 1030, 1031, 1032, 1034)
# Locks are granted and not taken: they would hold up others at files that a program may only read, and the standard
# library (sqlite3, dbm) does not work without.
_FCNTL_LOCKS = (6, 7, 37, 38)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # is it a terminal, its size, bytes to read, flags

INSTRUCTION_BYTES = 8
Rule = tuple[int, int, tuple[int, ...], int]
"""(argument, mask, values, what to do if the masked argument is among the values)."""
_RULES: dict[str, tuple[list[Rule], int]] = {
    "clone": ([(0, _NEW_NAMESPACES, (0,), _ALLOW)], _REFUSE),
    "prlimit64": ([(0, _ALL_BITS, (0,), _ALLOW)], _REFUSE),  # its own limits only
    "fcntl": ([(1, _ALL_BITS, _FCNTL, _ALLOW), (1, _ALL_BITS, _FCNTL_LOCKS, _PRETEND)], _REFUSE),
    "ioctl": ([(1, _ALL_BITS, _IOCTL, _ALLOW)], _ERRNO | errno.ENOTTY),
    # Pairs of connected streams: one of datagrams could still send to any socket that has a name.
    "socketpair": ([(1, 0xF, _NO_STREAM, _REFUSE), (0, _ALL_BITS, (_AF_UNIX,), _ALLOW)], _REFUSE),
    "open": ([(1, *_TRUNCATING, _REFUSE)], _ALLOW),
    "openat": ([(2, *_TRUNCATING, _REFUSE)], _ALLOW),
}

_PROGRAM_RULES: dict[str, tuple[list[Rule], int]] = {"prctl": ([(0, _ALL_BITS, _NAME, _ALLOW)], _REFUSE)}


def numbers(machine: str, *, of_worker: bool = False) -> dict[str, int]:
    """The calls that are allowed, or that only a worker may make, with their numbers on ``machine``.

    Args:
        machine: "x86_64" or "aarch64".
        of_worker: those of a worker.

    Raises:
        OSError: there is no list for it.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no list of system calls for {machine}")
    column = list(_ARCHITECTURES).index(machine) + 1
    rows = [entry.split(":") for entry in (_WORKER_NUMBERS if of_worker else _NUMBERS).split()]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


Instruction = tuple[int, int, int, int]


def worker_filter(machine: str) -> bytes:
    """Instructions for a worker: calls by another architecture's numbers end the process, others that are not listed fail.

    Raises:
        OSError: there is no list for ``machine``.
    """
    programs, workers = numbers(machine), numbers(machine, of_worker=True)
    kill = (_RETURN, 0, 0, _KILL)
    instructions = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURES[machine]), kill, (_LOAD, 0, 0, 0)]
    instructions += [(_AT_LEAST, 0, 1, _X32_CALLS), kill, *_by_rules(programs, _RULES)]
    for first, last in _ranges(
        {*programs.values(), *workers.values()} - {number for name, number in programs.items() if name in _RULES}
    ):
        instructions += [(_AT_LEAST, 0, 2, first), (_AT_LEAST, 1, 0, last + 1), (_RETURN, 0, 0, _ALLOW)]
    instructions += [(_AT_LEAST, 0, 1, _FIRST_COMMON), (_RETURN, 0, 0, _UNKNOWN), (_RETURN, 0, 0, _REFUSE)]
    return _packed(instructions)


@lru_cache(maxsize=8)
def program_filter(machine: str, without: frozenset[str] = frozenset(), own_process: int | None = None) -> bytes:
    """Instructions for a program, in a process that has the worker's already.

    Args:
        machine: "x86_64" or "aarch64".
        without: allowed calls that are refused all the same.
        own_process: if given, signals may go to this process and its group only.

    Raises:
        OSError: there is no list for ``machine``.
    """
    allowed, rules = numbers(machine), dict(_PROGRAM_RULES)
    if own_process is not None:
        rules |= dict.fromkeys(SIGNALS, ([(0, _ALL_BITS, (own_process, 0), _ALLOW)], _REFUSE))
    refused = {*numbers(machine, of_worker=True).values(), *(allowed[name] for name in without & allowed.keys())}
    instructions = [(_LOAD, 0, 0, 0), *_by_rules(allowed, rules)]
    for first, last in _ranges(refused):
        instructions += [(_AT_LEAST, 0, 2, first), (_AT_LEAST, 1, 0, last + 1), (_RETURN, 0, 0, _REFUSE)]
    return _packed([*instructions, (_RETURN, 0, 0, _ALLOW)])


def _by_rules(calls: dict[str, int], rules: dict[str, tuple[list[Rule], int]]) -> Iterator[Instruction]:
    """Decide the calls that have rules; the number of the call is loaded."""
    for name in sorted(rules.keys() & calls.keys()):
        tests, otherwise = rules[name]
        body: list[Instruction] = []
        for argument, mask, values, action in tests:
            body += [(_LOAD, 0, 0, 16 + 8 * argument), (_AND, 0, 0, mask)]
            for value in values:
                body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, action)]
        body += [(_RETURN, 0, 0, otherwise)]
        yield (_EQUAL, 0, len(body), calls[name])
        yield from body


def _packed(instructions: Iterable[Instruction]) -> bytes:
    return b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)


def _ranges(values: Iterable[int]) -> list[tuple[int, int]]:
    """The first and the last of each run of numbers without a gap."""
    runs: list[tuple[int, int]] = []
    for value in sorted(values):
        if runs and runs[-1][1] == value - 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    return runs
