            val labels = Assets.text(context, Model.LABELS).trimEnd('\n').split('\n')
            if (labels.size != Model.CLASSES) {
                throw TofeException(TofeException.Reason.DAMAGED, "${Model.LABELS} has ${labels.size} lines, not ${Model.CLASSES}")
            }
