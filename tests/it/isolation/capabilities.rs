//! Callers who have the user id 0 and not root's rights, and those who have other groups than the user database
//! tells of: the mount grants and refuses them what an ordinary directory does.

use crate::integrity::PLACES;
use crate::posix_open::as_in_an_ordinary_directory;

/// Runs each command as each caller, in a folder of its own.
const ALL: &str = r#"
import os, subprocess
def without(*names):
    names = ','.join(f'-{name}' for name in names)
    return ['setpriv', f'--bounding-set={names}', f'--inh-caps={names}']
def user(uid, gid, groups):
    some = ['--groups', groups] if groups else ['--clear-groups']
    return ['setpriv', '--reuid', uid, '--regid', gid, *some]
callers = {
    'root': [],
    'no fsetid': without('fsetid'),
    'no sys_admin': without('sys_admin'),
    'no dac': without('dac_override', 'dac_read_search'),
    'no fowner': without('fowner'),
    'no chown': without('chown'),
    'own namespace': ['unshare', '--user', '--map-root-user'],
    'in the group': user('1000', '1000', '5'),
    'of the group': user('1000', '5', ''),
    'outside': user('1000', '1000', ''),
    'left its group': user('33', '34', ''),
    'overrides': ['setpriv', '--reuid', '1000', '--regid', '1000', '--clear-groups',
        '--inh-caps=+dac_override', '--ambient-caps=+dac_override'],
    'namespace of a user': [*user('1000', '5', ''), 'unshare', '--user', '--map-root-user'],
    'namespace of another': [*user('1234', '5', ''), 'unshare', '--user', '--map-root-user'],
}
commands = {
    'shorten': 'truncate -s 3 file',
    'empty': ': >file',
    'write': 'printf more >>file',
    'reserve': 'fallocate -l 9999 file',
    'acl': 'setfacl -m u:1234:rwx file',
    'acl of a folder': 'setfacl -m u:1234:rwx folder',
    'owner': 'chown 1000:5 file',
    'mode': 'chmod 6711 file',
    'names': 'getfattr -d -m - file | sort',
    'trusted': 'setfattr -n trusted.new -v x file',
    'make': 'echo >folder/new && stat -c %g folder/new',
    'make in a closed folder': 'mkdir closed/d; echo >closed/f; ln -s x closed/l; mkfifo closed/p; ls closed',
    'install': 'install -m 2755 /dev/null folder/new && stat -c %a folder/new',
}
number = 0
for (uid, gid), mode in (((0, 0), 0o6755), ((1000, 5), 0o2755), ((33, 33), 0o2745)):
    for who, prefix in callers.items():
        for what, command in commands.items():
            if (who, what) == ('no fowner', 'owner'):
                # Bare, the bits that a change of owner takes are another change, of the mode; FUSE asks once.
                continue
            number += 1
            name = f'd{number}'
            file, folder, closed = f'{name}/file', f'{name}/folder', f'{name}/closed'
            os.mkdir(name)
            os.chmod(name, 0o777)
            os.mkdir(folder)
            os.mkdir(closed)
            with open(file, 'w') as new:
                new.write('content')
            os.setxattr(file, 'user.u', b'1')
            os.setxattr(file, 'trusted.t', b'1')
            for path, bits in ((file, mode), (folder, 0o2775), (closed, 0o555)):
                os.chown(path, uid, gid)
                os.chmod(path, bits)
            ended = subprocess.run(
                [*prefix, 'sh', '-c', command], cwd=name, capture_output=True, text=True
            )
            modes = [oct(os.stat(path).st_mode) for path in (file, folder)]
            modes += [(os.lstat(f'{closed}/{made}').st_uid, oct(os.lstat(f'{closed}/{made}').st_mode)) for made in sorted(os.listdir(closed))]
            print(f'{uid}:{gid}', who, what, ended.returncode != 0, ended.stdout, modes)
"#;

#[test]
fn callers_may_what_they_may_in_an_ordinary_directory() {
    as_in_an_ordinary_directory(&PLACES, ALL);
}
