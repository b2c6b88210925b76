# Completion of harness for bash 4.4 or newer. harness itself finds and quotes the words.
_harness() {
    local found
    COMPREPLY=()
    if found=$(command harness complete bash "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null </dev/null); then
        [[ -z $found ]] || mapfile -t COMPREPLY <<<"$found"
    else
        # A file is wanted here.
        compopt -o default
    fi
}
complete -F _harness harness
