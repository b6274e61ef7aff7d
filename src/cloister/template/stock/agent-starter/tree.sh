mkdir /agent-tree
cp -a /agent-libraries/. /agent-tree/
cp -a /.build/site/. /agent-tree/site/
cp -a /.build/drivers/. /agent-tree/drivers/
rm -rf /agent-tree/drivers/node
python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /agent-tree/site /agent-tree/drivers
chown -R root:root /agent-tree
chmod -R u=rwX,go=rX /agent-tree
