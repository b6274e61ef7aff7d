# Every command of the SDKs is run by `bash -l`. Debian's /etc/profile starts two programs and two subshells each time, which takes longer
# than all the rest; this one does the same by the shell itself. base-files leaves a changed /etc/profile alone when it is upgraded.
cat > /etc/profile <<'PROFILE'
# /etc/profile: system-wide .profile file for the Bourne shell (sh(1))
# and Bourne compatible shells (bash(1), ksh(1), ash(1), ...).

if [ "${EUID:-$(id -u)}" -eq 0 ]; then
  PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
else
  PATH="/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
fi
export PATH

if [ "${PS1-}" ]; then
  if [ "${BASH-}" ] && [ "$BASH" != "/bin/sh" ]; then
    # The file bash.bashrc already sets the default PS1.
    # PS1='\h:\w\$ '
    if [ -f /etc/bash.bashrc ]; then
      . /etc/bash.bashrc
    fi
  else
    if [ "${EUID:-$(id -u)}" -eq 0 ]; then
      PS1='# '
    else
      PS1='$ '
    fi
  fi
fi

if [ -d /etc/profile.d ]; then
  # The names that run-parts would take.
  for i in /etc/profile.d/[a-zA-Z0-9_]*.sh; do
    case ${i#/etc/profile.d/} in
      *[!a-zA-Z0-9._-]*) continue ;;
    esac
    if [ -r "$i" ]; then
      . "$i"
    fi
  done
  unset i
fi
PROFILE

# As in the container images of Debian: packages that are installed are not kept a second time, in a layer for good.
echo 'APT::Keep-Downloaded-Packages "false";' > /etc/apt/apt.conf.d/90keep-no-packages
