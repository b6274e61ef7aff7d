for language in java r; do
    if [ -e "/.build/drivers/$language/build.sh" ]; then
        (cd "/.build/drivers/$language" && bash ./build.sh)
    fi
done
