//! Pictures of the simulated world.
//!
//! The agent is a large disc, the patient a smaller square, each with one eye that shows where it looks. What is done is
//! told by the distance between them (far, near, touching, overlapping, one on top) and by the eyes, so that a single
//! frame is enough. A landmark in an upper corner tells the place, the grey behind everything the background.

use super::grammar::{Latents, Phase};
use crate::stats::random::Stream;

/// Side of the square that all coordinates here are written in; a frame may be larger or smaller.
const UNITS: f32 = 56.0;
const AGENT_RADIUS: f32 = 10.0;
const PATIENT_HALF: f32 = 6.0;

type Colour = [f32; 3];

const AGENT_COLOURS: [Colour; 6] = [
    [215.0, 40.0, 40.0],
    [40.0, 80.0, 220.0],
    [40.0, 160.0, 60.0],
    [235.0, 215.0, 40.0],
    [130.0, 50.0, 170.0],
    [245.0, 140.0, 25.0],
];
const PATIENT_COLOURS: [Colour; 5] =
    [[250.0, 250.0, 250.0], [15.0, 15.0, 15.0], [255.0, 150.0, 195.0], [70.0, 215.0, 225.0], [120.0, 75.0, 40.0]];
const BACKGROUND_GREYS: [f32; 4] = [70.0, 110.0, 150.0, 190.0];
const OUTLINE: Colour = [30.0, 30.0, 35.0];

/// How a clip is laid out apart from its latents; drawn once per phase, with a little movement from frame to frame.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The agent stands left of the patient.
    agent_left: bool,
    /// The landmark stands in the left corner.
    landmark_left: bool,
    /// Middle of the pair, in units from the middle of the frame.
    middle: [f32; 2],
}

impl Layout {
    /// Draws a layout.
    pub fn draw(stream: &mut Stream) -> Self {
        let (agent_left, landmark_left) = (stream.coin(0.5), stream.coin(0.5));
        Self { agent_left, landmark_left, middle: [0; 2].map(|_| stream.uniform() as f32 * 4.0 - 2.0) }
    }

    /// The layout of the next frame: the pair has moved by up to one unit.
    pub fn moved(mut self, stream: &mut Stream) -> Self {
        self.middle = self.middle.map(|at| (at + stream.uniform() as f32 * 2.0 - 1.0).clamp(-3.0, 3.0));
        self
    }
}

/// One frame as `[size, size, 3]` bytes.
pub fn frame(latents: &Latents, phase: usize, layout: &Layout, size: usize) -> Vec<u8> {
    let mut canvas = Canvas::new(size, BACKGROUND_GREYS[latents.background]);
    landmark(&mut canvas, latents.phases[phase].place, layout.landmark_left);
    pair(&mut canvas, &latents.phases[phase], layout);
    canvas.pixels.iter().map(|value| value.round().clamp(0.0, 255.0) as u8).collect()
}

/// Where the patient is and where the eyes look, along the line from agent (0) to patient (1).
struct Pose {
    gap: f32,
    above: bool,
    agent_looks: f32,
    patient_looks: f32,
}

/// Poses in the order of [`super::grammar::ACTIONS`]. Gaps in units between the outlines; +1 looks along the line from
/// agent to patient, −1 against it.
const POSES: [Pose; 8] = [
    Pose { gap: 15.0, above: false, agent_looks: 1.0, patient_looks: -1.0 },
    Pose { gap: 5.0, above: false, agent_looks: -1.0, patient_looks: -1.0 },
    Pose { gap: -8.0, above: false, agent_looks: 1.0, patient_looks: -1.0 },
    Pose { gap: 0.0, above: true, agent_looks: 1.0, patient_looks: 1.0 },
    Pose { gap: 15.0, above: false, agent_looks: -1.0, patient_looks: -1.0 },
    Pose { gap: 5.0, above: false, agent_looks: 1.0, patient_looks: 1.0 },
    Pose { gap: 0.0, above: false, agent_looks: 1.0, patient_looks: 1.0 },
    Pose { gap: -8.0, above: false, agent_looks: 1.0, patient_looks: 1.0 },
];

fn pair(canvas: &mut Canvas, phase: &Phase, layout: &Layout) {
    let pose = &POSES[phase.action];
    let side = if layout.agent_left { 1.0 } else { -1.0 };
    let centre = [UNITS / 2.0 + layout.middle[0], 36.0 + layout.middle[1]];
    let distance = AGENT_RADIUS + PATIENT_HALF + pose.gap;
    let (agent, patient) = if pose.above {
        let agent = [centre[0], centre[1] + 4.0];
        (agent, [agent[0], agent[1] - distance])
    } else {
        // The middle of the whole extent, not of the two centres, stays in place.
        let shift = (AGENT_RADIUS - PATIENT_HALF) / 2.0;
        let along = |offset: f32| [centre[0] + side * (offset + shift), centre[1]];
        (along(-distance / 2.0), along(distance / 2.0))
    };
    let colour = AGENT_COLOURS[phase.agent];
    canvas.disc(agent, AGENT_RADIUS, OUTLINE);
    canvas.disc(agent, AGENT_RADIUS - 1.0, colour);
    // Where the patient covers the front of the agent, the eye moves back and still looks ahead.
    let eye_along = if pose.gap < 0.0 { -3.0 } else { 5.0 * pose.agent_looks };
    eye(canvas, [agent[0] + side * eye_along, agent[1] - 2.0], side * pose.agent_looks, 3.4);
    canvas.rectangle(patient, [PATIENT_HALF; 2], OUTLINE);
    canvas.rectangle(patient, [PATIENT_HALF - 1.0; 2], PATIENT_COLOURS[phase.patient]);
    eye(canvas, [patient[0] + side * pose.patient_looks * 2.2, patient[1] - 1.0], side * pose.patient_looks, 2.6);
}

fn eye(canvas: &mut Canvas, at: [f32; 2], looks: f32, radius: f32) {
    canvas.disc(at, radius, OUTLINE);
    canvas.disc(at, radius - 0.6, [255.0, 255.0, 255.0]);
    canvas.disc([at[0] + looks * radius * 0.4, at[1]], radius * 0.45, [0.0, 0.0, 0.0]);
}

fn landmark(canvas: &mut Canvas, place: usize, left: bool) {
    let x = if left { 9.0 } else { UNITS - 9.0 };
    match place {
        0 => {
            canvas.rectangle([x, 9.5], [5.0, 8.0], OUTLINE);
            canvas.rectangle([x, 9.5], [4.0, 7.0], [150.0, 90.0, 45.0]);
            canvas.disc([x + 2.2, 10.0], 1.1, [250.0, 220.0, 90.0]);
        }
        1 => {
            canvas.rectangle([x, 14.0], [1.6, 4.0], [90.0, 55.0, 25.0]);
            canvas.disc([x, 7.5], 6.0, OUTLINE);
            canvas.disc([x, 7.5], 5.2, [60.0, 190.0, 60.0]);
        }
        2 => {
            canvas.rectangle([x, 12.5], [0.9, 6.0], OUTLINE);
            canvas.rectangle([x, 17.5], [4.0, 1.0], OUTLINE);
            canvas.disc([x, 5.5], 4.4, OUTLINE);
            canvas.disc([x, 5.5], 3.6, [255.0, 250.0, 170.0]);
        }
        _ => {
            canvas.rectangle([x, 9.0], [6.5, 6.5], OUTLINE);
            canvas.rectangle([x, 9.0], [5.5, 5.5], [150.0, 205.0, 255.0]);
            canvas.rectangle([x, 9.0], [5.5, 0.7], OUTLINE);
            canvas.rectangle([x, 9.0], [0.7, 5.5], OUTLINE);
        }
    }
}

/// A square RGB picture with soft edges one pixel wide.
struct Canvas {
    size: usize,
    pixels: Vec<f32>,
}

impl Canvas {
    fn new(size: usize, grey: f32) -> Self {
        Self { size, pixels: vec![grey; size * size * 3] }
    }

    /// Paints where `distance` (in units, negative inside) says so; nothing further than `reach` from `centre` is.
    fn paint(&mut self, centre: [f32; 2], reach: f32, colour: Colour, distance: impl Fn(f32, f32) -> f32) {
        let scale = self.size as f32 / UNITS;
        let range = |at: f32| {
            let low = ((at - reach) * scale - 1.0).floor().max(0.0) as usize;
            low..(((at + reach) * scale + 1.0).ceil().max(0.0) as usize).min(self.size)
        };
        for y in range(centre[1]) {
            for x in range(centre[0]) {
                let (dx, dy) = ((x as f32 + 0.5) / scale - centre[0], (y as f32 + 0.5) / scale - centre[1]);
                let cover = (0.5 - distance(dx, dy) * scale).clamp(0.0, 1.0);
                let start = (y * self.size + x) * 3;
                for (pixel, value) in self.pixels[start..start + 3].iter_mut().zip(colour) {
                    *pixel += (value - *pixel) * cover;
                }
            }
        }
    }

    fn disc(&mut self, centre: [f32; 2], radius: f32, colour: Colour) {
        self.paint(centre, radius, colour, |dx, dy| dx.hypot(dy) - radius);
    }

    fn rectangle(&mut self, centre: [f32; 2], half: [f32; 2], colour: Colour) {
        let distance = |dx: f32, dy: f32| (dx.abs() - half[0]).max(dy.abs() - half[1]);
        self.paint(centre, half[0].max(half[1]), colour, distance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::random::Streams;
    use crate::vision::world::grammar::{ACTIONS, BACKGROUNDS, World};

    fn pixels_that_differ(a: &[u8], b: &[u8]) -> usize {
        a.chunks(3).zip(b.chunks(3)).filter(|(a, b)| a.iter().zip(*b).any(|(a, b)| a.abs_diff(*b) > 30)).count()
    }

    #[test]
    fn no_two_actions_have_the_same_picture() {
        let mut stream = Streams::new(0, "test").named("layout");
        for _ in 0..20 {
            let layout = Layout::draw(&mut stream);
            let picture = |action| {
                let phase = Phase { agent: 0, action, patient: 0, place: 0 };
                frame(&Latents { phases: vec![phase], background: 1 }, 0, &layout, 56)
            };
            let pictures: Vec<Vec<u8>> = (0..ACTIONS.len()).map(picture).collect();
            for (a, first) in pictures.iter().enumerate() {
                for (b, second) in pictures.iter().enumerate().skip(a + 1) {
                    let differ = pixels_that_differ(first, second);
                    assert!(differ > 15, "actions {a} and {b} differ in {differ} pixels only");
                }
            }
        }
    }

    #[test]
    fn every_content_has_its_own_picture() {
        let layout = Layout::draw(&mut Streams::new(1, "test").named("layout"));
        let mut pictures = std::collections::HashSet::new();
        for phases in World::OneClause.contents() {
            for background in 0..BACKGROUNDS.len() {
                pictures.insert(frame(&Latents { phases: phases.clone(), background }, 0, &layout, 56));
            }
        }
        assert_eq!(pictures.len(), 960 * BACKGROUNDS.len());
    }

    #[test]
    fn shapes_stay_inside_the_frame() {
        let mut stream = Streams::new(2, "test").named("layout");
        for action in 0..ACTIONS.len() {
            for _ in 0..50 {
                let mut layout = Layout::draw(&mut stream);
                (0..5).for_each(|_| layout = layout.moved(&mut stream));
                let phase = Phase { agent: 0, action, patient: 0, place: 3 };
                let picture = frame(&Latents { phases: vec![phase], background: 3 }, 0, &layout, 56);
                let edge = (0..56).flat_map(|i| [(i, 0), (i, 55), (0, i), (55, i)]);
                assert!(edge.into_iter().all(|(x, y)| picture[(y * 56 + x) * 3] == 190), "action {action}");
            }
        }
    }
}
