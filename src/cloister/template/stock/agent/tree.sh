mkdir /agent-tree
cp -a /agent-libraries/. /agent-tree/
cp -a /.build/site/. /agent-tree/site/
cp -a /.build/drivers/. /agent-tree/drivers/
node /agent-tree/drivers/node/pack.js
mkdir /agent-tree/bin
for source in build/borrow process/become; do
    gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static -s -o "/agent-tree/bin/${source#*/}" "/agent-tree/site/cloister/agent/$source.c"
done
# The tree is mounted read-only: byte code that is not made here would be made again in every sandbox.
python3 -m compileall -q --invalidation-mode unchecked-hash /agent-tree/site /agent-tree/drivers
chown -R root:root /agent-tree
chmod -R u=rwX,go=rX /agent-tree
