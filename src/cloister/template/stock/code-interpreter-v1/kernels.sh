for language in java r; do
    if [ -e "/.build/drivers/$language/build.sh" ]; then
        (cd "/.build/drivers/$language" && bash ./build.sh)
    fi
done

# Templates made for E2B's own image start this. Here the agent serves port 49999 in every sandbox: the script waits until it does, and stays.
install -d -m 755 /root/.jupyter
cat > /root/.jupyter/start-up.sh <<'SCRIPT'
#!/bin/sh
until curl -sf -o /dev/null http://localhost:49999/health; do sleep 0.1; done
exec sleep infinity
SCRIPT
chmod 755 /root/.jupyter/start-up.sh
