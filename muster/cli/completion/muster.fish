# Completes the command `muster` in fish: muster completion fish > ~/.config/fish/completions/muster.fish

function __muster_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    set -e words[1]
    for line in (command $program __complete $words "$typed" 2>/dev/null)
        switch $line
            case ':files'
                __fish_complete_path "$typed"
            case ':directories'
                __fish_complete_directories "$typed"
            case '?*'
                echo $line
        end
    end
end

complete -c muster -f -a '(__muster_complete)'
