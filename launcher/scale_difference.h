#ifndef LONGSPAN_LAUNCHER_SCALE_DIFFERENCE_H_
#define LONGSPAN_LAUNCHER_SCALE_DIFFERENCE_H_

#include <string>

#include "launcher/scale_study.h"

// Between a study whose directory is there and one that is to go on with it.
namespace longspan {

// What keeps a study from going on as another, in words; empty: nothing does.
std::string StudyDifference(const ScaleStudy& there, const ScaleStudy& here);
// How ranks are started in another way than they were; empty: as they were, or it is not known.
std::string LaunchDifference(const ScaleStudy& there, const ScaleStudy& here);

}  // namespace longspan

#endif  // LONGSPAN_LAUNCHER_SCALE_DIFFERENCE_H_
