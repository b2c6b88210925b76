# Completion of harness for fish. harness itself finds the words; fish quotes them.
function __harness_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct | string unescape)
    set -l found
    if set found (command harness complete fish $words[2..] "$word" 2>/dev/null </dev/null)
        printf '%s\n' $found
    else
        # A file is wanted here.
        __fish_complete_path (commandline -ct)
    end
end
complete -c harness -f -a '(__harness_complete)'
